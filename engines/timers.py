"""Waiting for an absolute time on an event loop, as exactly as the machine allows.

uvloop's and asyncio's timers tick in milliseconds. On Linux a timerfd watched by the loop wakes it within some tens of microseconds, and
nothing spins; a loop that keeps its own time (a virtual clock) is asked through `call_at` and is exact.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

NS_PER_S = 1_000_000_000

_NOT_WORTH_SLEEPING_NS = 25_000
"""Arming, sleeping and being woken costs about this much; so near a due time, the clock is watched instead."""

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class LoopTimer:
    """The loop's own timer: exact on a virtual clock, granular to 1 ms on a real loop. Calls back at or after an absolute time, again and
    again until armed anew; None disarms."""

    watch_ns = 0
    """How near to the due time the clock is watched instead of sleeping; 0 where time stands still meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def now_ns(self) -> int:
        return round(self._loop.time() * NS_PER_S)

    def arm(self, due_ns: int | None) -> None:
        self.close()
        if due_ns is not None:
            self._handle = self._loop.call_at(due_ns / NS_PER_S, self._callback)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class FdTimer:
    """A Linux timerfd on CLOCK_MONOTONIC (timerfd_create(2)). Setting it also clears an expiry, so it is never read; until then the
    callback comes again and again."""

    watch_ns = _NOT_WORTH_SLEEPING_NS

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the GIL: these calls never block
        self._settime = libc.timerfd_settime
        self._settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._spec = (ctypes.c_long * 4)()  # interval s, ns; first expiry s, ns
        self._spec_address = ctypes.addressof(self._spec)
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop = loop
        loop.add_reader(self._fd, callback)

    now_ns = staticmethod(time.monotonic_ns)

    def arm(self, due_ns: int | None) -> None:
        self._spec[2], self._spec[3] = divmod(due_ns or 0, NS_PER_S)
        self._settime(self._fd, _TFD_TIMER_ABSTIME, self._spec_address, None)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
