"""How the command lines end: a user error is one line and status 2, an interrupt 130, a closed pipe quiet."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from bytemlperf_llm.errors import EXIT_USAGE, UserError

EXIT_INTERRUPTED = 130


def exit_cleanly(command: Callable[[], object]) -> NoReturn:
    """Run a typer app and leave with its status."""
    try:
        command()
    except UserError as error:
        print(f"error: {_one_line(error.cause)}; {_one_line(error.fix)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def _one_line(text: str) -> str:
    """No line breaks, no escape sequences: causes may quote a server."""
    return " ".join("".join(char if char.isprintable() or char.isspace() else "�" for char in text).split())
