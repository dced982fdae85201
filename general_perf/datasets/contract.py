"""A dataset: real samples with labels, how one becomes inputs, how outputs become an answer, how answers are judged.

Metrics are scikit-learn's where it has them. A dataset whose files or package are not there raises StageError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from general_perf.backends.contract import Array, Arrays, Outputs

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Dataset:
    """`samples` are raw, `calibration` are others of the same kind, for int8. `judged` is how many items the metrics count
    (questions, queries), where that is not every sample; `whole` is how many of these the full set has.

    `preprocess(sample)` gives the inputs of one, without the batch axis; `postprocess(sample, outputs)` its answer, an
    array of the same shape for every sample. `metrics(answers, labels)` gives figures by name; `decisions(answers)` what
    was decided, to be compared between two backends, item by item. `respond(predict, sample, batch)`, where there is one,
    gives a sample's answer by as many calls as it takes (generation), in place of the one call.
    """

    name: str
    source: str
    samples: Sequence[Any]
    labels: Sequence[Any]
    whole: int
    preprocess: Callable[[Any], Outputs]
    postprocess: Callable[[Any, Outputs], Array | np.generic]
    metrics: Callable[[Array, Sequence[Any]], dict[str, float]]
    decisions: Callable[[Array], Array]
    calibration: Sequence[Any] = ()
    respond: Callable[[Callable[[Arrays], Outputs], Any, int], Array] | None = None
    judged: int | None = None

    @property
    def count(self) -> int:
        """How many items the metrics count."""
        return len(self.samples) if self.judged is None else self.judged


def spread(items: Sequence[ItemT], limit: int) -> list[ItemT]:
    """At most `limit` of the items, evenly over all of them."""
    count = min(limit, len(items))
    return [items[place * len(items) // count] for place in range(count)]
