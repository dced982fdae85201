"""What an engine does between the operators, measured by itself: launches, Python, unfused glue, scheduler, sampler, tokenizer, transport.

It is measured with a model of as many layers as the predicted one and hardly any arithmetic (`synthetic:layers=N`), at the same prompt and
output lengths: what that takes beyond its own operators, priced as any others, is the engine's.

    layer    = (TPOT of N layers − TPOT of 2) / (N − 2)            launches, Python and unfused operators of a layer
    step     = TPOT of N layers − N · layer                        scheduler, sampler, detokenizer, transport
    stream   = (TPOT of B streams − TPOT of one) / (B − 1)         of each further stream in a step
    request  = TTFT − TPOT, of N layers and one stream             template, tokenizer, front end, transport

each less the operators. None of them knows the predicted model's own TTFT or TPOT.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from bytemlperf.hardware.kept import keep, path_of, read
from bytemlperf.hardware.machine import package_versions
from bytemlperf.hardware.peaks import identity_of
from bytemlperf.models.shape import ModelShape, read_shape
from micro.predict.check import ENGINES, measure, serve_bench_arguments
from micro.predict.costs import Pricing
from micro.predict.prediction import Load, Prediction, predict
from micro.predict.schedule import Served, closed_loop

FORMAT = 1
FEW_LAYERS = 2


class Between(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds, as the module says; of a model of `layers`."""

    layers: int
    layer_ms: float
    step_ms: float
    stream_ms: float
    request_ms: float

    def of_step(self, streams: int) -> float:
        """Of a step with so many."""
        return self.step_ms + self.layers * self.layer_ms + (streams - 1) * self.stream_ms


class _Means(NamedTuple):
    """TTFT and TPOT of an engine less those of its operators, in milliseconds."""

    ttft_ms: float
    tpot_ms: float


class Tiny(NamedTuple):
    """How models without arithmetic are run: on this `engine` and `device`, with these `threads`, in this `dtype`."""

    engine: str
    dtype: str
    device: str
    threads: int
    pricing: Pricing
    runs_dir: Path
    say: Callable[[str], None]

    def means(self, layers: int, load: Load) -> _Means:
        """Raises UserError."""
        name = f"synthetic:layers={layers}"
        self.say(f"running {self.engine} with {layers} layers and hardly any arithmetic: {load.batch} streams")
        operators = predict(read_shape(name), load, self.dtype, self.pricing, all_hot=True)
        figures = measure(serve_bench_arguments(self.engine, name, self.dtype, load, self.threads, self.runs_dir), self.runs_dir)
        assert figures.tpot is not None
        assert operators.tpot_ms is not None
        return _Means(figures.ttft.mean_ms - operators.ttft_ms, figures.tpot.mean_ms - operators.tpot_ms)


def between(tiny: Tiny, layers: int, load: Load, *, fresh: bool = False) -> Between:
    """As kept, else measured; of at least two output tokens. Raises UserError."""
    versions = package_versions((tiny.engine, *ENGINES))
    path = path_of("between-operators", [FORMAT, identity_of(tiny.device, tiny.threads), versions, tiny.engine, tiny.dtype, layers, load])
    if not fresh and (known := read(path, Between)) is not None:
        return known
    one = load._replace(batch=1)
    lone = tiny.means(layers, one)
    few = tiny.means(FEW_LAYERS, one) if layers > FEW_LAYERS else lone
    many = tiny.means(layers, load) if load.batch > 1 else lone
    measured = between_of(layers, load.batch, lone, few, many)
    keep(path, measured)
    return measured


def between_of(layers: int, streams: int, lone: _Means, few: _Means, many: _Means) -> Between:
    """From three runs; nothing is negative, which noise could make it."""
    layer_ms = max(0.0, (lone.tpot_ms - few.tpot_ms) / max(1, layers - FEW_LAYERS))
    return Between(
        layers=layers,
        layer_ms=layer_ms,
        step_ms=max(0.0, lone.tpot_ms - layers * layer_ms),
        stream_ms=max(0.0, (many.tpot_ms - lone.tpot_ms) / max(1, streams - 1)),
        request_ms=max(0.0, lone.ttft_ms - lone.tpot_ms),
    )


def served(shape: ModelShape, load: Load, requests: int, parts: Between, operators: Callable[[Load], Prediction]) -> Served:
    """The engine's figures: the closed loop, its steps priced by `operators` for as many prompts and streams as they have."""
    of = dict[int, Prediction]()

    def priced(streams: int) -> Prediction:
        return of.get(streams) or of.setdefault(streams, operators(load._replace(batch=streams)))

    def step_ms(prompts: int, streams: int) -> float:
        if not prompts:
            return (priced(streams).tpot_ms or 0.0) + parts.of_step(streams)
        tokens = prompts * load.input_len  # those of streams that decode go through the same products
        return priced(prompts).ttft_ms * (tokens + streams) / tokens + parts.of_step(prompts + streams)

    assert shape.layers == parts.layers
    return closed_loop(load.batch, requests, load.output_len, step_ms, parts.request_ms)
