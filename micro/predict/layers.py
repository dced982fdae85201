"""An engine that compiles a model as a whole, whose kernels can't be called one by one: its operator is a layer.

A fifth and two fifths of the model's layers run on the engine itself, at the predicted widths, lengths and number of streams. What the
second takes longer is its layers'; the rest is head, sampler, tokenizer and scheduler. The whole model's figures follow along the line:

    figure = figure of few + (layers − few) · (figure of more − figure of few) / (more − few)

Streams of a closed loop wait for each other's prefill in the small models as in the whole one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from bytemlperf.models.fewer_layers import with_layers
from bytemlperf.models.shape import ModelShape
from engines.contract import Model
from micro.predict.check import Measured, measure, serve_bench_arguments
from micro.predict.prediction import Load
from micro.predict.schedule import Served

PARTS = 5


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """What a model of so many layers took: means in milliseconds."""

    layers: int
    ttft_ms: float
    tpot_ms: float
    e2e_ms: float


class Layered(msgspec.Struct, frozen=True, kw_only=True):
    """Two depths, and the `layers` of the whole model."""

    few: Depth
    more: Depth
    layers: int

    def of_layer(self, name: str) -> float:
        """What a layer adds to a figure."""
        return float(getattr(self.more, name) - getattr(self.few, name)) / (self.more.layers - self.few.layers)

    def rest(self, name: str) -> float:
        """What no layer has."""
        return float(getattr(self.few, name)) - self.few.layers * self.of_layer(name)

    def whole(self, name: str) -> float:
        """Of the whole model."""
        return self.rest(name) + self.layers * self.of_layer(name)

    def served(self, load: Load) -> Served:
        """The whole model's figures."""
        e2e_ms = self.whole("e2e_ms")
        return Served(self.whole("ttft_ms"), self.whole("tpot_ms"), e2e_ms, load.batch * load.output_len / e2e_ms * 1e3)


def layered(
    engine: str, model: Model, shape: ModelShape, dtype: str, load: Load, threads: int, runs_dir: Path, say: Callable[[str], None]
) -> Layered:
    """Measure both depths. Raises UserError."""
    few = max(1, shape.layers // PARTS)

    def depth(layers: int, folder: Path) -> Depth:
        say(f"running {engine} with {layers} of {shape.layers} layers: {load.batch} streams")
        name = str(with_layers(model, layers, folder))
        return depth_of(layers, measure(serve_bench_arguments(engine, name, dtype, load, threads, runs_dir), runs_dir))

    with tempfile.TemporaryDirectory(prefix="bmp-layers-") as temporary:
        depths = [depth(layers, Path(temporary) / str(layers)) for layers in (few, 2 * few)]
    return Layered(few=depths[0], more=depths[1], layers=shape.layers)


def depth_of(layers: int, measured: Measured) -> Depth:
    """From a run of so many layers, of at least two output tokens."""
    assert measured.tpot is not None
    return Depth(layers=layers, ttft_ms=measured.ttft.mean_ms, tpot_ms=measured.tpot.mean_ms, e2e_ms=measured.e2e.mean_ms)
