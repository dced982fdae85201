"""Which class request i is of: an independent draw by the classes' shares, the same for a seed on every machine.

So each class of a Poisson process is one itself, of its share of the rate (thinning). Draws come in seeded blocks; of each block is known
how many requests of each class came before it, so that any worker can tell any request's class and place without making the others.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

from bytemlperf.arrivals import seeded
from bytemlperf_llm.plan.scenario import ClassKeys

BLOCK_DRAWS = 1024


class Drawn(NamedTuple):
    """A request's class, and its place among the requests that have the same prompts."""

    name: str
    place: int


class ClassSeries:
    """Draw i of a seeded series, for any i >= 0, in any order; memory is one block and a number for each class and block before it."""

    def __init__(self, classes: Mapping[str, ClassKeys], seed: int, purpose: str) -> None:
        self._names = list(classes)
        self._sums = list(accumulate(keys.share for keys in classes.values()))
        self._deck = [place if keys.prompts is not None else len(classes) for place, keys in enumerate(classes.values())]
        self._seed, self._purpose = seed, purpose
        self._before = [[0] * (len(classes) + 1)]
        self._number, self._block = -1, list[Drawn]()

    def at(self, index: int) -> Drawn:
        """Of request `index`."""
        number, place = divmod(index, BLOCK_DRAWS)
        while self._number != number:
            self._draw(min(number, len(self._before) - 1))
        return self._block[place]

    def _draw(self, number: int) -> None:
        """A block whose counts before it are known; those before the next one are known then."""
        draw, counts, total = seeded.stream(self._seed, self._purpose, number), [*self._before[number]], self._sums[-1]
        self._number, self._block = number, []
        for _ in range(BLOCK_DRAWS):
            chosen = min(bisect_right(self._sums, draw() * total), len(self._names) - 1)
            deck = self._deck[chosen]
            self._block.append(Drawn(self._names[chosen], counts[deck]))
            counts[deck] += 1
        if number + 1 == len(self._before):
            self._before.append(counts)


def seed_of_class(seed: int, name: str) -> int:
    """For a class's own prompts and lengths: made-up texts of two classes then have no beginning in common."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/class/{name}".encode(), digest_size=6).digest())
