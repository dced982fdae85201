"""How long: whole numbers drawn from a scenario's length distribution.

Every distribution turns one uniform draw into one length, by its quantile function. So the length
of request i needs only the draws of i's block, whatever was asked for before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from bytemlperf.arrivals import seeded
from bytemlperf_llm.plan.scenario import Constant, Empirical, Lengths, Lognormal, Normal, Uniform

BLOCK_LENGTHS = 1024
"""Lengths per seeded block: few enough to draw at once, enough to make seeding free."""


def sampler(lengths: Lengths) -> Callable[[seeded.Uniform], int]:
    """The function that draws one length, in the distribution's bounds, from one uniform draw."""
    match lengths:
        case Constant(value=value):
            return lambda _: value
        case Uniform(min=low, max=high):
            return lambda draw: low + int(draw() * (high - low + 1))
        case Normal(mean=mean, std=std, min=low, max=high):
            return lambda draw: min(max(round(mean + std * seeded.normal(draw)), low), high)
        case Lognormal(mean=mean, sigma=sigma, min=low, max=high):
            mu = seeded.log(mean) - sigma * sigma / 2.0
            return lambda draw: min(max(round(seeded.exp(mu + sigma * seeded.normal(draw))), low), high)
        case Empirical(values=values, weights=weights):
            sums = list(accumulate(weights or (1.0,) * len(values)))
            # A product may round up to the last sum: the last value that has a weight takes that draw.
            last = max(i for i in range(len(values)) if sums[i] > (sums[i - 1] if i else 0.0))
            return lambda draw: values[min(bisect_right(sums, draw() * sums[-1]), last)]


class LengthSeries:
    """Length i of a seeded series, for any i >= 0, in any order; memory is one block."""

    def __init__(self, lengths: Lengths, seed: int, purpose: str) -> None:
        self._sample = sampler(lengths)
        self._seed, self._purpose = seed, purpose
        self._block_index = -1
        self._block: list[int] = []

    def at(self, index: int) -> int:
        """The length of request `index`."""
        block_index, place = divmod(index, BLOCK_LENGTHS)
        if block_index != self._block_index:
            draw = seeded.stream(self._seed, self._purpose, block_index)
            self._block = [self._sample(draw) for _ in range(BLOCK_LENGTHS)]
            self._block_index = block_index
        return self._block[place]
