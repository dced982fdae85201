"""The backend contract: `compile`, `load`, `predict`. The benchmark loop is ours and the same for all.

A backend is one class in one file, found at the entry-point group `bytemlperf.backends` (entry-point name
= backend name). It never looks at a clock and never loops over iterations:

- `describe()` says what it is and what it takes, without loading anything heavy that isn't needed for that;
- `compile(model, options)` makes the artefact that would be deployed, at a precision, and says how;
- `load(compiled, options)` makes one session ready to answer (called once per concurrent instance);
- `session.predict(inputs)` answers: arrays in by input name, arrays out by output name;
- `coverage(compiled, inputs)` measures which part of the graph the backend itself took;
- `weights(compiled)` shows the weights as compiled, so that their sparsity is measured. Of a backend that leaves it out,
  `Compiled.sparsity` is taken at its word, and the result says so.

Anything that goes wrong is raised; `failures.classify` makes a row of it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import msgspec

from general_perf.card import Card
from general_perf.choices import Precision
from general_perf.failures import StageError

if TYPE_CHECKING:
    import numpy as np
    import torch


Array: TypeAlias = "np.ndarray[Any, Any]"
Arrays = Mapping[str, Array]
Outputs = dict[str, Array]
Details = dict[str, Any]
"""What a backend adds to its coverage, by names of its own; JSON."""
PRECISIONS: tuple[str, ...] = get_args(Precision)
SourceFormat = Literal["torch", "torchscript", "onnx"]
HELD = {"float32": "fp32", "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8", "int4": "int4"}
"""Precisions by the names that torch, ONNX and profiles have for number formats."""


def held_by(values: Mapping[str, int]) -> str:
    """The precision of most values, given how many there are of each number format; fp32 where there are none."""
    return HELD.get(name := max(values, key=values.__getitem__, default="float32"), name)


@dataclass(frozen=True)
class SourceModel:
    """A model before any backend has touched it.

    `module` is an eval-mode torch module that takes tensors in the order of `card.inputs` and returns a tuple
    in the order of `card.outputs`; a model that exists only as ONNX has `onnx_path` and no module. `weights`
    says where they come from: `random weights, seed 0`, or a package and its version. `held` is the precision that most
    of them are in; one that isn't fp32 is measured as itself alone.
    """

    card: Card
    format: SourceFormat
    weights: str
    module: torch.nn.Module = None
    onnx_path: Path | None = None
    parameters: int = 0
    parameter_bytes: int = 0
    held: str = "fp32"

    @property
    def input_names(self) -> list[str]:
        return [entry.name for entry in self.card.inputs]


@dataclass(frozen=True)
class CompileOptions:
    """What to compile for. `example` is one batch of realistic inputs; `calibration` are batches for
    quantisation, with `calibration_source` in words. `extra` are the backend's own KEY=VALUE options."""

    precision: Precision
    device: str
    work: Path
    example: Arrays
    batch_sizes: tuple[int, ...]
    threads: int
    calibration: Iterable[Arrays] = ()
    calibration_source: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    def calibration_batches(self) -> list[Arrays]:
        """The batches for quantisation. Raises StageError where there are none."""
        if not (batches := list(self.calibration)):
            raise StageError("missing_dataset", "int8 needs a calibration set and there is none", "raise --calibration-samples")
        return batches


@dataclass(frozen=True)
class LoadOptions:
    """How a session runs: on which device, with how many threads."""

    device: str
    threads: int


@dataclass(frozen=True)
class Compiled:
    """What `compile` made. `payload` is the backend's own; `artefact` the file or folder to deploy, None where
    the backend keeps none. `sparsity` is what the backend itself makes use of: `none`, `unstructured` or `n:m`."""

    payload: Any
    artefact: Path | None = None
    optimisations: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    precision_tool: str = "as the model is"
    calibration: str | None = None
    sparsity: str = "none"
    notes: tuple[str, ...] = ()


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of the graph a backend took, measured. `graph_share` and `flops_share` are None with a `reason`
    where nothing is partitioned. `fallback_operators` counts the ones left to something else, by name."""

    method: str = ""
    nodes: int | None = None
    taken_nodes: int | None = None
    graph_share: float | None = None
    flops: int | None = None
    flops_share: float | None = None
    partitions: int | None = None
    fallback_operators: dict[str, int] = {}
    details: Details = {}
    reason: str = ""


class BackendInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend is. `distributions` are the packages that it needs beside torch's export, whose installed
    size is measured; `formats` the model formats that it compiles from."""

    name: str
    about: str
    versions: dict[str, str]
    distributions: tuple[str, ...]
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    formats: tuple[str, ...]


class Session(Protocol):
    """One loaded instance. Not shared between threads."""

    def predict(self, inputs: Arrays) -> Outputs:
        """Arrays by output name; returns when they are there."""

    def device_memory_bytes(self) -> int | None:
        """Peak memory on the device, None where it is the host's or can't be told."""


class Backend(Protocol):
    """See the module's text."""

    def describe(self) -> BackendInfo: ...
    def compile(self, model: SourceModel, options: CompileOptions) -> Compiled: ...
    def load(self, compiled: Compiled, options: LoadOptions) -> Session: ...
    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage: ...


@runtime_checkable
class ShowsWeights(Protocol):
    """The part of a backend that may be left out."""

    def weights(self, compiled: Compiled) -> Iterator[Array]:
        """Every weight as it was compiled; integers as they are, quantised symmetrically."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No prints, warnings or log lines below errors; what a library raises is raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class Tally:
    """Counts the operators of a backend's graph: which of them it took itself, and the FLOPs of those that multiply."""

    def __init__(self) -> None:
        self.nodes = self.flops = self._taken_flops = 0
        self._elsewhere: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()

    def add(self, kind: str, flops: int | None, *, taken: bool) -> None:
        """One operator; `flops` is None where it multiplies and can't be counted."""
        self.nodes += 1
        self._unknown[kind] += flops is None
        self._elsewhere[kind] += not taken
        self.flops += flops or 0
        self._taken_flops += (flops or 0) if taken else 0

    def coverage(self, method: str, details: Details, partitions: int | None = None) -> Coverage:
        """What was counted, as a coverage."""
        taken = self.nodes - self._elsewhere.total()
        return Coverage(
            method=method,
            nodes=self.nodes,
            taken_nodes=taken,
            graph_share=taken / self.nodes if self.nodes else None,
            flops=self.flops,
            flops_share=self._taken_flops / self.flops if self.flops else None,
            partitions=partitions,
            fallback_operators=dict(sorted((+self._elsewhere).items())),
            details={**details, "operators_without_flops_formula": dict(sorted((+self._unknown).items()))},
        )
