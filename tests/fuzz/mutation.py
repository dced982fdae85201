"""Small random damage to bytes, shared by the fuzz targets."""

from __future__ import annotations

import random
from collections.abc import Sequence


def damage(stream: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    """One to four insertions of a word, deletions, changed bytes, or repeats of the beginning."""
    out = bytearray(stream)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0:
                out[at:at] = rng.choice(words)
            case 1:
                del out[at : at + rng.randrange(1, 9)]
            case 2:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case _:
                out[at:at] = out[: rng.randrange(1, 30)]
    return bytes(out)


def cut(stream: bytes, rng: random.Random) -> list[bytes]:
    """The stream in two to six pieces, some of them empty."""
    marks = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randrange(1, 6)))
    return [stream[a:b] for a, b in zip([0, *marks], [*marks, len(stream)], strict=True)]
