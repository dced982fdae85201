"""How the command lines end: bad input is one line and status 2, an interrupt 130, a closed pipe quiet."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from bytemlperf.command.signals import Interrupted, interrupt_status, terminate_like_interrupt
from bytemlperf.errors import EXIT_USAGE, UserError

EXIT_INTERRUPTED = 130
GONE = {
    "--remote-write": "use --otlp, which Prometheus 3 takes too (--web.enable-otlp-receiver)",
    "--pdf": "print the run's page with: bmp report RUN --format pdf",
    "push": "give --push-gateway or --otlp to the run itself",
    "micro --list": "use: bmp micro list",
    "micro --precision": "use --ci-width",
    "micro --max-case-seconds": "use --time-limit",
    "micro --max-memory": "use --memory-limit",
    "micro export --csv": "use --out FILE.csv",
    "micro export --jsonl": "use --out FILE.jsonl",
    "train --into": "use --out",
    "general --memory-limit-gib": "use --memory-limit, as in --memory-limit 4GiB",
    "--output": "use --out",
    "--measure-seconds": "use --seconds",
    "site --device": "use --card",
    "compare --prices": "use --cards",
    "compare --dtype": "use --precision",
    "runs --dir": "use --runs-dir",
    "predict --batch": "use --batch-size",
    "predict --dtype": "use --precision",
    "predict --hardware": "use --card",
}
"""Flags and commands that this version has no more, of one command or of all, and what stands in for them."""
CLOSE_FLAG = 0.8  # how alike a flag must be to be what was meant


def exit_cleanly(command: Callable[..., Any]) -> NoReturn:
    """Run a typer app and leave with its status."""
    terminate_like_interrupt()
    try:
        status = command(standalone_mode=False)
    except UserError as error:
        _leave(f"error: {one_line(error.cause)}; {one_line(error.fix)}", EXIT_USAGE)
    except Interrupted as interrupted:
        _leave("interrupted" + (f": {one_line(interrupted.hint)}" if interrupted.hint else ""), 128 + interrupted.number)
    except KeyboardInterrupt:
        _leave("interrupted", interrupt_status())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        _leave_for_usage(error)
    if status == EXIT_INTERRUPTED:  # typer makes this of a KeyboardInterrupt
        _leave("interrupted", interrupt_status())
    sys.exit(status if isinstance(status, int) else 0)


def _leave_for_usage(error: Exception) -> NoReturn:
    """The parser's own errors know how to say themselves; anything else is a bug and keeps its traceback."""
    kind = type(error).__name__
    if kind == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        sys.exit(EXIT_USAGE)
    if kind == "Abort":
        _leave("interrupted", EXIT_INTERRUPTED)
    if not hasattr(error, "format_message"):
        from engines.client_limits import client_limit  # here, so that --help is quick

        if (limit := client_limit(error)) is not None:
            _leave(f"error: {limit.detail}; run again with that limit raised", EXIT_USAGE)
        raise error
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", "")
    path = getattr(context, "command_path", "") or "bmp-llm"
    instead = _instead(path, option or one_line(error.format_message()))
    if possibilities := getattr(error, "possibilities", None):  # a hint at another flag is worse than none
        error.possibilities = [] if instead else difflib.get_close_matches(option, possibilities, cutoff=CLOSE_FLAG)  # type: ignore[attr-defined]
    _leave(f"error: {one_line(error.format_message()).rstrip('.')}; {instead or f'see {path} --help'}", EXIT_USAGE)


def _instead(path: str, what: str) -> str:
    """What stands in for a flag of the command at `path`, or for the command that a message says isn't there; "" where nothing does."""
    for gone, instead in GONE.items():
        command, _, name = gone.rpartition(" ")
        if what in (name, f"No such command '{name}'.") and (not command or f" {command} " in f" {path} "):
            return instead
    return ""


def _leave(text: str, status: int) -> NoReturn:
    sys.stdout.flush()
    print(text, file=sys.stderr)
    sys.exit(status)


def one_line(text: str) -> str:
    """No line breaks, no escape sequences: causes may quote a server."""
    return " ".join("".join(char if char.isprintable() or char.isspace() else "�" for char in text).split())
