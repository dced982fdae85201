"""SIGINT and SIGTERM: outside the measured part both end the program; in it the first one drains
and reports, the second ends the program at once.

An end at once is the exit status 128 + number (130, 143), as shells have it. Where tear-down
hangs (an engine that is busy in C), a thread ends the process after `PATIENCE_S`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

PATIENCE_S = 3.0
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The measured part was ended at once by signal `number`."""

    def __init__(self, number: int, hint: str = "") -> None:
        super().__init__()
        self.number, self.hint = number, hint


_terminated = False


def terminate_like_interrupt() -> None:
    """From now on SIGTERM does what SIGINT does, so that what is open is closed."""
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    global _terminated
    _terminated = True
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background by a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def interrupt_status() -> int:
    """Exit status of an interrupt outside the measured part: 130, or 143 after SIGTERM."""
    return 128 + (signal.SIGTERM if _terminated else signal.SIGINT)


@contextmanager
def draining(stop: Callable[[], None], stopped: Callable[[], bool], say: Callable[[str], None]) -> Iterator[None]:
    """Around the measured part, in its task: the first signal calls `stop`, the next raises Interrupted here."""
    import asyncio  # not at the top: `--help` passes through this module, and asyncio is most of its cost

    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None
    ending: list[int] = []

    def received(number: int) -> None:
        if not stopped():
            say("stopping: waiting for the requests in flight; once more to exit at once")
            stop()
        elif not ending:
            ending.append(number)
            _end_soon(128 + number)
            main.cancel()

    for number in STOPPING:
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
        for number in STOPPING:
            with suppress(NotImplementedError, ValueError, RuntimeError):
                loop.remove_signal_handler(number)
        terminate_like_interrupt()


def _end_soon(status: int) -> None:
    timer = threading.Timer(PATIENCE_S, os._exit, (status,))
    timer.daemon = True
    timer.start()
