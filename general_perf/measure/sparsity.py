"""Sparsity of weights as they are: the share that is exactly 0, and whether the zeros keep a pattern that hardware can use.

Looked at are the weights with two axes or more, of the source and of what was compiled. A tensor is n:m sparse where, along
one of its axes, no m neighbours have more than n values that aren't 0, with n at most half of m, and nearly as many as that are
kept (2:4 is what NVIDIA's sparse tensor cores take; a 32-fold sparsity is 1:32). Along which axis a product runs needn't
be known for that: values that were not pruned keep no such pattern along any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from general_perf.backends.contract import Array
from general_perf.job.records import HALF, NONE, Sparsity

GROUPS = (4, 8, 16, 32)
"""The m of n:m that are looked for, smallest first."""
FLOATS = "fV"
"""Kinds of numpy's dtypes: floats, and those that numpy doesn't know itself, such as bfloat16."""
LEAST_VALUES = 256
"""A smaller tensor may keep a pattern by chance."""
LEAST_KEPT = 0.75
"""Of what n:m lets stay, for it to be the pattern: a few zeros more come from rounding, many more from zeros at random."""


def measure(weights: Iterable[Array]) -> Sparsity:
    """Sparsity over the arrays of floats and of bytes with two axes or more. A byte counts as 0 where it is 0: weights are
    quantised symmetrically."""
    values = zeros = 0
    sizes: Counter[str] = Counter()
    for array in weights:
        if array.ndim < 2 or not array.size or not (array.dtype.kind in FLOATS or array.dtype.itemsize == 1):
            continue
        filled = int(np.count_nonzero(array))
        values += array.size
        zeros += array.size - filled
        pattern = pattern_of(array) if filled and array.size >= LEAST_VALUES else NONE
        if pattern != NONE:
            sizes[pattern] += array.size
    return Sparsity(
        values=values,
        zero_share=zeros / values if values else 0.0,
        patterns={pattern: size / values for pattern, size in sorted(sizes.items())},
    )


def patterns_in_words(kept: Sparsity) -> str:
    """Of a kept Sparsity: `2:4 in 76.3%`, or `none`."""
    return ", ".join(f"{pattern} in {share:.1%}" for pattern, share in kept.patterns.items()) or NONE


def pattern_of(array: Array) -> str:
    """`n:m`, the sparsest that holds along an axis, of equally sparse ones that of the smallest m; `none` without one."""
    filled = array != 0
    share = float(filled.mean())
    patterns = []
    if share > HALF + 1 / min(GROUPS):  # a last group may be cut short; more than that keeps no pattern
        return NONE
    for axis in range(array.ndim):
        rows = np.moveaxis(filled, axis, -1).reshape(-1, array.shape[axis])
        for group in GROUPS:
            if rows.shape[1] < group:
                continue
            whole = np.pad(rows, ((0, 0), (0, -rows.shape[1] % group)))
            most = int(whole.reshape(len(rows), -1, group).sum(axis=2).max())
            if most <= HALF * group and share >= LEAST_KEPT * most / group:
                patterns.append((most / group, group, f"{most}:{group}"))
    return min(patterns)[2] if patterns else NONE
