"""A dataset: real samples with labels, how one becomes inputs, how outputs become an answer, how answers are judged.

Metrics are scikit-learn's where it has them. A dataset whose files or package are not there raises StageError.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeVar

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
    return [items[index * len(items) // count] for index in range(count)]


P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class Answered(NamedTuple):
    """One answer a sample, stacked, and what pre- and post-processing took for each sample, ns."""

    answers: Array
    preprocess_ns: list[int]
    postprocess_ns: list[int]


def answer_all(predict: Callable[[Arrays], Outputs], data: Dataset, batch: int) -> Answered:
    """Answers in the order of the samples. The last batch is filled up by repeating its last sample, so that every
    backend sees whole batches; what the filling gives is left out."""
    if data.respond is not None:
        return Answered(np.stack([data.respond(predict, sample, batch) for sample in data.samples]), [], [])
    answers: list[Array | np.generic] = []
    before: list[int] = []
    after: list[int] = []
    for start in range(0, len(data.samples), batch):
        samples = data.samples[start : start + batch]
        ready = [_timed(before, data.preprocess, sample) for sample in samples]
        filled = [*ready, *[ready[-1]] * (batch - len(ready))]
        outputs = predict({name: np.stack([sample[name] for sample in filled]) for name in filled[0]})
        for index, sample in enumerate(samples):
            answers.append(_timed(after, data.postprocess, sample, {name: array[index] for name, array in outputs.items()}))
    return Answered(np.stack(answers), before, after)


def _timed(times: list[int], call: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT:
    began = time.perf_counter_ns()
    result = call(*args, **kwargs)
    times.append(time.perf_counter_ns() - began)
    return result
