from collections.abc import Callable
from typing import Any

class Tap:
    quiet: bool
    left_bytes: int
    left_reads: int
    def __init__(self, look: Callable[[bytes], None]) -> None: ...
    def feed(self, data: bytes, /) -> None: ...
    def listen(
        self, chunk: Callable[[Any], None] | None, stamps: list[int] | None, payloads: list[Any] | None, max_bytes: int, max_reads: int, /
    ) -> None: ...

def cast(reads: list[bytes], first: int, last: int, before: bytes, after: bytes, /) -> tuple[list[int], int, bytes] | None: ...
