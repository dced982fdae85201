"""What a run's figures are held against: the model's shape where its configuration is at hand, and the peaks of what it ran on."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.hardware.machine import discover
from bytemlperf.hardware.measured import FIX, device_of, is_remote
from bytemlperf.hardware.peaks import identity_of, kept
from bytemlperf.models.resolve import BUILT_IN, DEFAULT_MODEL
from bytemlperf.models.shape import CONFIG_NAME, ModelShape, read_shape
from bytemlperf.runs.folder import part
from bytemlperf_llm.metrics.bound import Limits, arithmetic_of
from engines.contract import Model
from engines.processor import cores_but_one

PARALLEL_OPTIONS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
MEASURE = "measure them with: bmp micro gemm -a dtype={dtype} --threads {threads}, or name its card with --card"


def devices_used(run: Mapping[str, Any]) -> int | None:
    """As the engine was told to split the model; None where it wasn't."""
    options = part(run, "config", "engine_options")
    sizes = [int(options[name]) for name in PARALLEL_OPTIONS if str(options.get(name, "")).isdigit()]
    return max(math.prod(sizes), 1) if sizes else None


def limits_of(run: Mapping[str, Any], model: Model | None) -> Limits | None:
    """From `config` and `engine` of run.json. None where the model isn't known."""
    shape, engine = _shape(run, model), part(run, "engine")
    if shape is None or engine.get("device") == "none":
        return None
    dtype = str(engine.get("dtype") or shape.dtype)
    if part(run, "config", "flags").get("device") is None:
        if is_remote(run):
            return Limits(shape=shape, dtype=dtype, why=f"the server's hardware is not known; {FIX}")
        if str(engine.get("device")).lower() == "cpu":
            return _of_this_cpu(shape, dtype)
    device = device_of({**run, "environment": {"hardware": discover()}}, cards.load(), told=devices_used(run))
    if device.card is None or device.used is None:
        return Limits(shape=shape, dtype=dtype, device=device.text, why=f"the peaks of {device.text} are not known; {device.why}")
    peak, bandwidth = cards.peak_flops(device.card, arithmetic_of(dtype)), cards.memory_bandwidth(device.card)
    return Limits(
        shape=shape,
        dtype=dtype,
        device=device.text,
        flops_per_s=peak and peak * device.used,
        bytes_per_s=bandwidth and bandwidth * device.used,
    )


def _of_this_cpu(shape: ModelShape, dtype: str) -> Limits:
    """What `bmp micro` measured with as many threads as engines take."""
    threads, arithmetic = cores_but_one(), arithmetic_of(dtype)
    roof = kept(identity_of("cpu", threads)).roof()
    flops, bandwidth = roof.flops_per_s.get(arithmetic), roof.memory_bytes_per_s(0.0)
    device = f"this CPU, as measured with {threads} thread{'s' if threads > 1 else ''}"
    known = flops is not None and bandwidth is not None
    why = "" if known else "the peaks of this CPU are not known; " + MEASURE.format(dtype=arithmetic, threads=threads)
    return Limits(shape=shape, dtype=dtype, device=device, flops_per_s=flops, bytes_per_s=bandwidth, why=why)


def _shape(run: Mapping[str, Any], model: Model | None) -> ModelShape | None:
    """Of the checkpoint that was loaded, or of the server's model where its configuration is on this machine."""
    flags = part(run, "config", "flags")
    started = DEFAULT_MODEL if flags.get("launch") else ""
    name = model.name if model else str(flags.get("model") or started)
    config = model.path if model else name if started and name.partition(":")[0] in BUILT_IN else _config(name)
    try:
        return msgspec.structs.replace(read_shape(config), name=name) if config else None
    except UserError:
        return None


def _config(name: str) -> str | None:
    """A folder, or where the hub's cache has the configuration; nothing is downloaded."""
    if not name or (Path(name).expanduser() / CONFIG_NAME).is_file():
        return name
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    import huggingface_hub

    try:
        path = huggingface_hub.try_to_load_from_cache(name, CONFIG_NAME)
    except ValueError:  # no hub id
        return None
    return path if isinstance(path, str) else None
