"""Answers on real data: samples through pre-processing, model and post-processing, each timed apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from general_perf.backends.contract import Arrays
from general_perf.datasets.contract import Dataset


@dataclass(frozen=True)
class Answered:
    """One answer a sample, stacked, and what pre- and post-processing took for each sample, ns."""

    answers: Any
    preprocess_ns: list[int]
    postprocess_ns: list[int]


def answer_all(predict: Callable[[Arrays], dict[str, Any]], data: Dataset, batch: int) -> Answered:
    """Answers in the order of the samples. The last batch is filled up by repeating its last sample, so that every
    backend sees whole batches; what the filling gives is left out."""
    import numpy as np

    if data.respond is not None:
        return Answered(np.stack([data.respond(predict, sample, batch) for sample in data.samples]), [], [])
    answers: list[Any] = []
    before: list[int] = []
    after: list[int] = []
    for start in range(0, len(data.samples), batch):
        samples = data.samples[start : start + batch]
        ready = [_timed(before, data.preprocess, sample) for sample in samples]
        filled = [*ready, *[ready[-1]] * (batch - len(ready))]
        outputs = predict({name: np.stack([each[name] for each in filled]) for name in filled[0]})
        for place, sample in enumerate(samples):
            answers.append(_timed(after, data.postprocess, sample, {name: array[place] for name, array in outputs.items()}))
    return Answered(np.stack(answers), before, after)


def _timed(times: list[int], call: Callable[..., Any], *given: Any) -> Any:
    began = time.perf_counter_ns()
    made = call(*given)
    times.append(time.perf_counter_ns() - began)
    return made
