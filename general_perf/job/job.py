"""A job: one model on one backend at one precision, as it crosses to its own process. And the plan of a sweep."""

from __future__ import annotations

import msgspec

from general_perf.card import Card

NO_REFERENCE = "failure.txt"
"""In a model's reference folder: why its reference was not made."""
MEASURED = ("compile", "load", "numerics", "accuracy", "performance", "coverage")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs; JSON. `card` is at its size.

    `stages` are those of MEASURED that are wanted. `loops` are `closed` and `open`; the open loop sends at `rate`
    requests/s, or at `rate_share` of what the closed loop reached. A closed loop ends after `seconds`, or after
    `iterations` calls of each instance where given. Accuracy takes at most `accuracy_samples`, and at most `data_percent` of the data.
    `failed` is class, reason and fix of what is known to be wrong before it runs: such a job is a row without a process.
    `sparsity` prunes the source before it is compiled; empty leaves it.
    """

    id: str
    attempt: int
    card: Card
    size: str
    backend: str
    precision: str
    device: str
    threads: int
    instances: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    stages: tuple[str, ...]
    loops: tuple[str, ...]
    seconds: float
    iterations: int | None
    rate: float | None
    rate_share: float
    process: str
    burstiness: float
    seed: int
    numeric_samples: int
    accuracy_samples: int
    calibration_samples: int
    backend_options: dict[str, str]
    memory_limit_bytes: int
    weights: str | None
    sparsity: str
    data_percent: float = 100.0
    failed: tuple[str, str, str] | None = None
    work: str
    reference: str


def job_id(model: str, size: str, backend: str, precision: str) -> str:
    """`resnet50/openvino/fp32`, with the size where it isn't the published one."""
    return "/".join([model if size == "published" else f"{model}@{size}", backend, precision])
