"""`bmp` in this process: the same command, streams and status as a process has, without its start."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest.mock import patch

from bytemlperf.app import app
from bytemlperf.command.exits import exit_cleanly


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def bmp(*words: str) -> Ended:
    """Run to its end; a bug raises."""
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["bmp", *words]), redirect_stdout(out), redirect_stderr(err):
        try:
            exit_cleanly(app)
        except SystemExit as ended:
            status = ended.code
    return Ended(status if isinstance(status, int) else 0, out.getvalue(), err.getvalue())
