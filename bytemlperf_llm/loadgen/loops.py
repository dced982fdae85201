"""The event loop of every process that sends: uvloop where it is installed, and room for its sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

MAX_OPEN_FILES = 1 << 20  # Linux's own default ceiling


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """For asyncio.Runner; None is asyncio's own loop. Also lets the process open as many sockets as it may."""
    raise_open_file_limit()
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def raise_open_file_limit() -> None:
    """A stream is an open file, and the usual soft limit of 1,024 is there for select(2), not used here."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
