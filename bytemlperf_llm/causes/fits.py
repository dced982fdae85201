"""Lines through noisy columns: robust coefficients, and how they vary when blocks of requests are drawn again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Column, Floats

STEPS = 30
BLOCKS = 50
SLOPES_REDRAWN = 500
SEED = 20_261_201
NEAR = 2.0
"""Times the median residual: what is further off pulls no harder than that."""
_SMALLEST = 1e-2  # of the mean residual: where most residuals are 0, weights stay finite


@dataclass(frozen=True)
class Fit:
    """`values` ≈ an intercept and `columns` · `coefficients`, by Huber's estimator, so that some values far off move little (iteratively
    reweighted least squares; Huber, Annals of Mathematical Statistics 35, 1964). A column that doesn't vary has 0."""

    columns: Floats
    values: Floats
    weights: Floats
    coefficients: Floats
    ranges: Floats

    @property
    def slopes(self) -> Floats:
        """Of the columns, per unit of each."""
        found: Floats = self.coefficients[1:] / self.ranges
        return found

    def bounds(self) -> tuple[float, float]:
        """The 95 % interval of the first column's slope."""
        low, high = numpy.quantile(self.redrawn(*blocks_of(len(self.values), SLOPES_REDRAWN))[:, 1] / self.ranges[0], (0.025, 0.975))
        return float(low), float(high)

    def redrawn(self, draws: Column, length: int) -> Floats:
        """The coefficients for each row of `draws`, which are the first rows of blocks of `length`; with the same weights."""
        weighted = self.columns * self.weights[:, None]
        squares = numpy.einsum("ni,nj->nij", weighted, self.columns).reshape(len(self.values), -1)
        sums = block_sums(numpy.concatenate([squares, weighted * self.values[:, None]], axis=1), draws, length)
        size = self.columns.shape[1]
        matrix = sums[:, : size * size].reshape(-1, size, size)
        least = 1e-9 * matrix.trace(axis1=1, axis2=2)[:, None, None] * numpy.eye(size)
        solved: Floats = numpy.linalg.solve(matrix + least, sums[:, size * size :, None])[:, :, 0]
        return solved


def fit(values: Floats, *columns: Floats) -> Fit:
    """Of an intercept, then each column, scaled to its range."""
    ranges = numpy.array([float(numpy.ptp(column)) or numpy.inf for column in columns])
    scaled = [column / size for column, size in zip(columns, ranges, strict=True)]
    matrix = numpy.stack([numpy.ones(len(values)), *scaled], axis=1)
    weights, coefficients = numpy.ones(len(values)), numpy.zeros(matrix.shape[1])
    for _ in range(STEPS):
        root = numpy.sqrt(weights)
        coefficients = numpy.linalg.lstsq(matrix * root[:, None], values * root, rcond=1e-9)[0]
        off = numpy.abs(values - matrix @ coefficients)
        weights = 1.0 / numpy.maximum(off, max(NEAR * float(numpy.median(off)), _SMALLEST * float(off.mean()), 1e-9))
        weights /= weights.max()
    return Fit(matrix, values, weights, coefficients, ranges)


def blocks_of(rows: int, times: int) -> tuple[Column, int]:
    """First rows of the blocks of consecutive rows that a run is drawn again from, `times` times; and how long they are."""
    length = max(round(rows**0.5), rows // BLOCKS)
    chance = random.Random(SEED)
    blocks, last = -(-rows // length), rows - length
    return numpy.array(chance.choices(range(last + 1), k=times * blocks)).reshape(times, blocks), length


def block_sums(columns: Floats, draws: Column, length: int) -> Floats:
    """Of each column, the sum over the rows of all blocks that a row of `draws` begins."""
    upto = numpy.concatenate([numpy.zeros((1, columns.shape[1])), numpy.cumsum(columns, axis=0)])
    sums: Floats = numpy.zeros((len(draws), columns.shape[1]))
    for place in draws.T:
        sums += upto[place + length] - upto[place]
    return sums
