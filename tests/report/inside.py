"""`bmp` in this process: the same command, streams and status as a process has, without its start and
without building all the other suites' commands."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import entry_points
from typing import NamedTuple
from unittest.mock import patch

import typer

from bytemlperf.app import COMMANDS_GROUP, SUITES_GROUP
from bytemlperf.command.exits import exit_cleanly


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def bmp(*words: str) -> Ended:
    """Run to its end; a bug raises."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.callback()(lambda: None)
    for entry in entry_points(group=COMMANDS_GROUP, name=words[0]):
        app.command(entry.name)(entry.load())
    for entry in entry_points(group=SUITES_GROUP, name=words[0]):
        app.add_typer(entry.load(), name=entry.name)
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["bmp", *words]), redirect_stdout(out), redirect_stderr(err):
        try:
            exit_cleanly(app)
        except SystemExit as ended:
            status = ended.code
    return Ended(status if isinstance(status, int) else 0, out.getvalue(), err.getvalue())
