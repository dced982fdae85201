"""SIGINT, SIGTERM and SIGHUP: outside the measured part they end the program; in it the first one drains
and reports, the second ends the program at once.

SIGHUP stays ignored where it is (nohup). With it a terminal may have gone, whose descriptors then fail
every write: they are pointed elsewhere, so that the run's end doesn't die of its own words.
An end at once is the exit status 128 + number (129, 130, 143), as shells have it. Where tear-down
hangs (an engine that is busy in C), a thread ends the process after `PATIENCE_S`.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

PATIENCE_S = 3.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The measured part was ended at once by signal `number`."""

    def __init__(self, number: int, hint: str = "") -> None:
        super().__init__()
        self.number, self.hint = number, hint


_ended_by: int = signal.SIGINT


def stopping() -> list[signal.Signals]:
    """Those of `STOPPING` that are heeded here."""
    return [number for number in STOPPING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def terminate_like_interrupt() -> None:
    """From now on SIGTERM and SIGHUP do what SIGINT does, so that what is open is closed."""
    with suppress(ValueError):  # not the main thread
        for number in stopping():
            if number != signal.SIGINT:
                signal.signal(number, _terminate)


def leave_lost_terminal() -> None:
    """Point standard streams at nothing whose terminal has gone."""
    for stream in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                os.dup2(os.open(os.devnull, os.O_RDWR), stream)


def _terminate(number: int, _frame: FrameType | None) -> None:
    global _ended_by
    _ended_by = number
    if number == signal.SIGHUP:
        leave_lost_terminal()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background by a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def interrupt_status() -> int:
    """Exit status of an interrupt outside the measured part: 130, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + _ended_by


@contextmanager
def draining(stop: Callable[[], None], stopped: Callable[[], bool], say: Callable[[str], None]) -> Iterator[None]:
    """Around the measured part, in its task: the first signal calls `stop`, the next raises Interrupted here."""
    import asyncio  # not at the top: `--help` passes through this module, and asyncio is most of its cost

    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None
    ending: list[int] = []

    def received(number: int) -> None:
        if number == signal.SIGHUP:
            leave_lost_terminal()
        if not stopped():
            stop()
            say("stopping: waiting for the requests in flight; once more to exit at once")
        elif not ending:
            ending.append(number)
            _end_soon(128 + number)
            main.cancel()

    heeded = stopping()
    for number in heeded:
        with suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, received, number)
    try:
        yield
    except asyncio.CancelledError:
        if not ending:
            raise
        main.uncancel()
        raise Interrupted(ending[0]) from None
    finally:
        for number in heeded:
            with suppress(NotImplementedError, ValueError, RuntimeError):
                loop.remove_signal_handler(number)
        terminate_like_interrupt()


def _end_soon(status: int) -> None:
    timer = threading.Timer(PATIENCE_S, os._exit, (status,))
    timer.daemon = True
    timer.start()
