"""What a connection does with every read, once per token: stamp it, keep it, and look at it only if it
could be the answer's last.

`_stream.Tap` is compiled where it could be; `PythonTap` is its twin for everywhere else. A
tap belongs to a connection; `listen` tells it whose reads come next:

- `chunk` takes a read, as `Recorder.chunk` does; None while nobody waits for one.
- `stamps`, `payloads`: where a recorder keeps them, when its clock is the machine's own: the compiled
  tap then stamps and keeps by itself. None otherwise.
- `max_bytes`, `max_reads`: past either, every read is looked at.

`quiet` is set by whoever looks: from then on a read that ends with `QUIET_READ` needs no look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from engines.http.http1 import QUIET_READ


class AnyTap(Protocol):
    """Either of the two."""

    quiet: bool
    left_bytes: int
    left_reads: int

    def feed(self, data: bytes, /) -> None:
        """A read."""

    def listen(
        self, chunk: Callable[[Any], None] | None, stamps: list[int] | None, payloads: list[Any] | None, max_bytes: int, max_reads: int, /
    ) -> None:
        """Whose reads come from now on."""


class PythonTap:
    """See the module's text."""

    def __init__(self, look: Callable[[bytes], None]) -> None:
        self._look = look
        self.listen(None, None, None, 0, 0)

    def listen(
        self, chunk: Callable[[Any], None] | None, _stamps: list[int] | None, _payloads: list[Any] | None, max_bytes: int, max_reads: int
    ) -> None:
        """See the module's text."""
        self._chunk = _drop if chunk is None else chunk
        self.left_bytes, self.left_reads = max_bytes, max_reads
        self.quiet = False

    def feed(self, data: bytes) -> None:
        """See the module's text."""
        self._chunk(data)
        self.left_bytes -= len(data)
        self.left_reads -= 1
        if not (self.quiet and data.endswith(QUIET_READ)) or self.left_bytes < 0 or self.left_reads < 0:
            self._look(data)


def _drop(_data: Any) -> None:
    """Nobody waits for this read."""


def make_tap(look: Callable[[bytes], None]) -> AnyTap:
    """The faster of the two that is there."""
    return _fastest(look)


_fastest: Callable[[Callable[[bytes], None]], AnyTap]
try:
    from engines.http._stream import Tap as _fastest
except ImportError:  # no compiler where this was installed
    _fastest = PythonTap
