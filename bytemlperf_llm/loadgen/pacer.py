"""Waiting until a planned instant, as exactly as the machine allows.

uvloop's and asyncio's timers tick in milliseconds, too coarse for a thousand requests a second.
On Linux a timerfd watched by the event loop wakes within some tens of microseconds; elsewhere,
and on a virtual clock, the loop's own timer is used.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.recorder import ClockNs, monotonic_ns


class Pacer:
    """Absolute waiting on the clock that the recorder stamps with."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None
        self._interrupted = self._woken = False

    async def until(self, due_ns: int) -> None:
        """Return at `due_ns` or as soon after as possible; at once when it has passed."""
        raise NotImplementedError

    def wake(self) -> None:
        """End the wait under way early; later ones wait again."""
        self._woken = True
        _wake(self._waiter)

    def interrupt(self) -> None:
        """End the wait under way and every later one at once."""
        self._interrupted = True
        _wake(self._waiter)

    def close(self) -> None:
        """Give the timer back."""


class LoopPacer(Pacer):
    """Waits on the event loop's timers; exact on a virtual clock, a millisecond coarse on a real one."""

    def __init__(self, now: ClockNs) -> None:
        super().__init__()
        self._now = now

    async def until(self, due_ns: int) -> None:
        loop = asyncio.get_running_loop()
        self._woken = False
        while (left_ns := due_ns - self._now()) > 0 and not (self._interrupted or self._woken):
            self._waiter = loop.create_future()
            timer = loop.call_at(loop.time() + left_ns / NS_PER_S, _wake, self._waiter)
            try:
                await self._waiter
            finally:
                timer.cancel()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class TimerfdPacer(Pacer):
    """One timerfd on CLOCK_MONOTONIC, armed with absolute times (timerfd_create(2))."""

    _CLOCK_MONOTONIC = 1
    _ABSTIME = 1
    _NONBLOCK_CLOEXEC = 0o4000 | 0o2000000

    def __init__(self) -> None:
        super().__init__()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(self._CLOCK_MONOTONIC, self._NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._fired)

    async def until(self, due_ns: int) -> None:
        self._woken = False
        while due_ns > monotonic_ns() and not (self._interrupted or self._woken):
            self._waiter = self._loop.create_future()
            self._arm(due_ns)
            await self._waiter

    def _arm(self, due_ns: int) -> None:
        spec = _TimerSpec(_Timespec(0, 0), _Timespec(due_ns // NS_PER_S, due_ns % NS_PER_S))
        if self._libc.timerfd_settime(self._fd, self._ABSTIME, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        _wake(self._waiter)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


def real_pacer() -> Pacer:
    """The best pacer for this machine; call it inside the running loop."""
    if sys.platform == "linux":
        try:
            return TimerfdPacer()
        except (OSError, AttributeError):
            pass
    return LoopPacer(monotonic_ns)
