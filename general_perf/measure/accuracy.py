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
    """Outputs by batch, one answer a sample, and what pre- and post-processing took for each sample, ns."""

    outputs: list[dict[str, Any]]
    answers: list[Any]
    preprocess_ns: list[int]
    postprocess_ns: list[int]


def predictions(predict: Callable[[Arrays], dict[str, Any]], data: Dataset, batch: int) -> Answered:
    """Answers in the order of the samples. The last batch is filled up by repeating its last sample, so that every
    backend sees whole batches; what the filling gives is left out."""
    import numpy as np

    outputs: list[dict[str, Any]] = []
    answers: list[Any] = []
    before: list[int] = []
    after: list[int] = []
    for start in range(0, len(data.samples), batch):
        ready = []
        for sample in data.samples[start : start + batch]:
            began = time.perf_counter_ns()
            ready.append(data.preprocess(sample))
            before.append(time.perf_counter_ns() - began)
        filled = [*ready, *[ready[-1]] * (batch - len(ready))]
        answer = predict({name: np.stack([each[name] for each in filled]) for name in filled[0]})
        kept = {name: array[: len(ready)] for name, array in answer.items()}
        outputs.append(kept)
        for place in range(len(ready)):
            began = time.perf_counter_ns()
            answers.append(data.postprocess({name: array[place] for name, array in kept.items()}))
            after.append(time.perf_counter_ns() - began)
    return Answered(outputs, answers, before, after)


def judge(outputs: dict[str, Any], data: Dataset) -> list[Any]:
    """Answers from kept outputs."""
    count = len(data.samples)
    return [data.postprocess({name: array[place] for name, array in outputs.items()}) for place in range(count)]
