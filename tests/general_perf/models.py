"""Small torch models as the backends get them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from general_perf.backends.contract import CompileOptions, SourceModel
from general_perf.backends.torch_int8 import torchao_in_sight
from general_perf.card import Card, zoo
from general_perf.datasets.inputs import make_inputs
from general_perf.job.child import Reporter
from general_perf.job.records import Job


def torchao_is_here() -> bool:
    """Whether static int8 can be had, without importing anything."""
    with torchao_in_sight():
        return find_spec("torchao") is not None


def source(name: str, size: str = "small") -> SourceModel:
    """A model of the zoo."""
    from general_perf.zoo.source import build

    return build(zoo()[name].at_size(size))


def own(module: Any, width: int = 8) -> SourceModel:
    """A module of one input [batch, width] and one output."""
    card = msgspec.convert(
        {
            "name": "own",
            "model_class": "regular",
            "task": "test",
            "source": {"kind": "architecture", "library": "own", "model": "None"},
            "inputs": [{"name": "x", "shape": ["batch", width], "kind": "features"}],
            "outputs": ["y"],
        },
        Card,
    )
    return SourceModel(card=card, format="torch", weights="random weights", module=module.eval())


def options(model: SourceModel, work: Path, precision: str = "fp32", batch: int = 2, **extra: str) -> CompileOptions:
    """What a job would ask for."""
    calibration = [make_inputs(model.card, 1, 5, index) for index in range(4)] if precision == "int8" else []
    return CompileOptions(
        precision=precision,  # type: ignore[arg-type]
        device="cpu",
        work=work,
        example=make_inputs(model.card, batch, 0),
        batch_sizes=(batch,),
        threads=1,
        calibration=calibration,
        calibration_source="4 seeded random samples" if calibration else "",
        extra=extra,
    )


def reporter(card: Card, **fields: Any) -> Reporter:
    """The reporter of a job on the card whose messages nobody hears."""
    job = Job(
        **{
            **dict.fromkeys(("size", "device", "process", "sparsity", "work", "reference"), ""),
            "id": "x",
            "attempt": 1,
            "card": card,
            "backend": "x",
            "precision": "fp32",
            "threads": 1,
            "instances": (1,),
            "batch_sizes": (1,),
            "stages": (),
            "loops": (),
            "seconds": 1.0,
            "iterations": None,
            "rate": None,
            "rate_share": 1.0,
            "burstiness": 1.0,
            "seed": 0,
            "numeric_samples": 1,
            "accuracy_samples": 1,
            "calibration_samples": 1,
            "backend_options": {},
            "memory_limit_bytes": 1 << 40,
            "weights": None,
            **fields,
        }
    )
    return Reporter(job, lambda _message: None)
