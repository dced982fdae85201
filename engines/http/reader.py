"""A thread that reads sockets, stamps what it read and keeps it until the event loop asks.

`_stream.Reader` does for a token what the kernel makes it do and little more; it holds no interpreter
lock, so that a stamp waits neither for Python nor for the other answers of the same turn of the loop.
A stamp is the kernel's, of when the read's last packet came in (SO_TIMESTAMPNS), where the kernel gives it: a
late read isn't a late stamp then. So where much arrives (some 20,000 reads a second), the thread naps
between its turns for up to 0.4 ms and at most 0.4 of the time between two reads of one connection: one wake-up
then serves many tokens, and the tokens keep their times. An answer's end is heard of that much later.
The event loop hears of a connection when a read could have been an answer's last (`tap.py` says
which), and then gets all reads since, with their stamps, as if it had made them itself.

Only for answers of many reads: handing over costs two switches between threads an answer, a read that
the event loop makes itself costs half a switch. Only where it is compiled, on Linux, and without TLS, which is
the event loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol


class AnyReader(Protocol):
    """What a connection and its pool need of it."""

    def fileno(self) -> int:
        """Readable when `dispatch` is due."""

    def dispatch(self) -> None:
        """Feed the taps of all connections with something to look at."""

    def add(self, fd: int, tap: Any, lost: Callable[[int], None], /) -> int:
        """Read this socket from now on; the name under which it is known. Its end is told to `lost`, with
        the errno, or 0 where the peer closed it."""

    def take(self, name: int, /) -> None:
        """Feed this connection's tap with what has arrived."""

    def remove(self, name: int, /) -> None:
        """Read it no more."""

    def cpu_ns(self) -> int:
        """Processor time of the thread so far."""

    def counts(self) -> dict[str, int]:
        """`reads`, `kernel_stamped_reads` among them, and `naps`, so far."""

    def close(self) -> None:
        """End the thread."""


def start_reader(loop: asyncio.AbstractEventLoop) -> AnyReader | None:
    """A reader whose `dispatch` runs on this loop, with a thread of its own; None where it isn't compiled, or where
    the system gives no thread or no more files."""
    if _reader_type is None:
        return None
    try:
        reader = _reader_type()
    except OSError:
        return None
    loop.add_reader(reader.fileno(), reader.dispatch)
    return reader


_reader_type: Callable[[], AnyReader] | None
try:
    from engines.http._stream import Reader as _reader_type
except ImportError:  # no compiler where this was installed, or not Linux
    _reader_type = None
