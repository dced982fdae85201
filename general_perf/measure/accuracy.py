"""Answers on real data: samples through pre-processing, model and post-processing, each timed apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np

from general_perf.backends.contract import Array, Arrays, Outputs
from general_perf.datasets.contract import Dataset

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
        for place, sample in enumerate(samples):
            answers.append(_timed(after, data.postprocess, sample, {name: array[place] for name, array in outputs.items()}))
    return Answered(np.stack(answers), before, after)


def _timed(times: list[int], call: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT:
    began = time.perf_counter_ns()
    result = call(*args, **kwargs)
    times.append(time.perf_counter_ns() - began)
    return result
