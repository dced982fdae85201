"""A child's own side: it dies with its parent, is the first to go where memory runs out, and says its messages in lines."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

PARENT = "BMP_PARENT"
"""Environment variable: the process that started this one, so that one which is gone already is noticed."""

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def die_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """Ask Linux for this signal at the parent's death (elsewhere nothing): nobody is left behind who goes on computing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)
    parent = os.environ.pop(PARENT, None)  # what this process starts has another parent
    if parent is not None and int(parent) != os.getppid():
        os._exit(1)


def first_out_of_memory() -> None:
    """Memory that runs out takes this process, never the one that watches it."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def messages() -> Callable[[object], None]:
    """Says a message to the parent. Standard output is the messages' alone from now on: libraries' prints go to standard error."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    encode = msgspec.json.Encoder().encode

    def say(message: object) -> None:
        line = memoryview(encode(message) + b"\n")
        while line:
            line = line[channel.write(line) :]

    return say
