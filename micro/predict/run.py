"""What `bmp predict` does: check what was asked for, find prices, predict, print; with --check also measure and compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.text import Text as RichText

from bytemlperf.command.console import print_sections, terminal
from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.models.resolve import resolve
from bytemlperf.models.shape import ModelShape, read_shape
from bytemlperf.runs.files import writing
from bytemlperf.runs.kinds import Section
from engines.processor import cores_but_one, cpu_bfloat16_flag
from micro.cases.case import Arguments
from micro.command.run import device_of
from micro.operators.contract import canonical, size_bytes
from micro.peaks.machine import GPU_CACHE_BYTES, last_level_cache_bytes
from micro.predict.between import Tiny, between, served
from micro.predict.check import ENGINES, LAYERED, ONE_RANK, compare, measure, requests_of, serve_bench_arguments
from micro.predict.costs import FromRun, Modelled, Pricing
from micro.predict.flags import Flags
from micro.predict.forward import Step
from micro.predict.layers import layered
from micro.predict.measured import Measuring
from micro.predict.prediction import Load, Prediction, as_json, predict, steps_of
from micro.predict.schedule import Served
from micro.predict.sections import between_sections, check_document, check_sections, layer_sections, prediction_sections, served_section
from micro.providers.registry import find_provider, provider_names

DEFAULT_ENGINE = "transformers"
"""Whose kernels are measured where no engine and no provider is named."""

DTYPES = ("float32", "float16", "bfloat16")
GIGA = 1e9
FITS_SHARE = 0.5
"""Weights that fill more of the last-level cache than this don't stay in it beside everything else."""


class Basis(NamedTuple):
    """Where prices come from, in words too. `all_hot`: everything stays in the cache."""

    pricing: Pricing
    text: str
    all_hot: bool


def run(flags: Flags) -> None:
    """Everything is checked before anything is measured. Raises UserError."""
    shape = read_shape(flags.model)
    load = Load(flags.batch_size, flags.input_len, flags.output_len, flags.tp)
    _possible(flags, shape, load)
    dtype, threads = _dtype(flags, shape), flags.threads or cores_but_one()
    if flags.workload:
        print(write_workload(flags.workload, steps_of(shape, load, dtype)))
        return
    with Console(stderr=True, quiet=flags.json).status("reading") as status:

        def say(sentence: str) -> None:
            status.update(RichText(sentence))

        engine = flags.engine or flags.check
        found = (_of_layers if engine in LAYERED else _of_operators)(flags, Work(shape, load, dtype, threads), say)
        if flags.check and found.served:
            say(f"running {flags.check}: {load.batch} streams")
            arguments = serve_bench_arguments(flags.check, flags.model, dtype, load, threads, flags.runs_dir)
            checked = compare(flags.check, ["bmp-llm", *arguments], found.served, measure(arguments, flags.runs_dir))
            found.document["check"] = check_document(checked)
            found.sections.extend(check_sections(checked))
    if flags.json:
        print(json.dumps(found.document, indent=1))
    else:
        print_sections(terminal(), found.sections)


class Work(NamedTuple):
    """What is to be predicted."""

    shape: ModelShape
    load: Load
    dtype: str
    threads: int


class Found(NamedTuple):
    """For programs and for a reader; `served` are an engine's figures, where one was named."""

    document: dict[str, Any]
    sections: list[Section]
    served: Served | None


def _of_operators(flags: Flags, work: Work, say: Callable[[str], None]) -> Found:
    """From the operators, and what the engine takes between them. Raises UserError."""
    shape, load, dtype, threads = work
    basis = _basis(flags, shape, dtype, threads, say)
    prediction = predict(shape, load, dtype, basis.pricing, all_hot=basis.all_hot)
    document = {**as_json(prediction), "basis": basis.text, "shape": msgspec.to_builtins(shape)}
    sections = prediction_sections(prediction, basis.text)
    engine = flags.engine or flags.check
    if not engine:
        return Found(document, sections, None)
    device = device_of(flags.device)
    tiny = Tiny(engine, dtype, device, threads, _measuring(flags, device, threads, say), flags.runs_dir, say)
    parts = between(tiny, shape.layers, load, fresh=flags.fresh)

    def operators(other: Load) -> Prediction:
        return prediction if other == load else predict(shape, other, dtype, basis.pricing, all_hot=basis.all_hot)

    figures = served(shape, load, requests_of(load), parts, operators)
    document["engine"] = {"name": engine, "between": msgspec.to_builtins(parts), **figures._asdict()}
    return Found(document, [*sections, *between_sections(engine, parts, prediction), served_section(engine, figures)], figures)


def _of_layers(flags: Flags, work: Work, say: Callable[[str], None]) -> Found:
    """From some of the model's layers on the engine itself. Raises UserError."""
    shape, load, dtype, threads = work
    engine = flags.engine or flags.check or ""
    depths = layered(engine, resolve(flags.model), shape, dtype, load, threads, flags.runs_dir, say)
    figures = depths.served(load)
    document = {"model": shape.name, "dtype": dtype, **load._asdict(), "shape": msgspec.to_builtins(shape)}
    document["engine"] = {"name": engine, "layers": msgspec.to_builtins(depths), **figures._asdict()}
    return Found(document, [*layer_sections(engine, depths, shape, load), served_section(engine, figures)], figures)


def write_workload(path: Path, steps: list[Step]) -> Path:
    """Each distinct operator once, as `bmp micro run` reads it; for a sweep elsewhere and --from-run. Raises UserError."""
    content: dict[str, list[Arguments]] = {}
    for step in steps:
        cases = content.setdefault(step.op, [])
        if step.args not in cases:
            cases.append(step.args)
    with writing(path, "give another path with --workload"):
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def _possible(flags: Flags, shape: ModelShape, load: Load) -> None:
    total = load.input_len + load.output_len
    if shape.context and total > shape.context:
        raise UserError(f"{total} tokens are more than the {shape.context} that {shape.name} was made for", "give fewer")
    if shape.window and total > shape.window:
        raise UserError(
            f"{shape.name} attends to {shape.window} tokens only, and {total} were requested",
            "sliding windows are not supported; give fewer",
        )
    if flags.card and flags.from_run:
        raise UserError("--card and --from-run are two different sources", "give one of them")
    engines = (*ENGINES, *LAYERED)
    if flags.check and flags.check not in engines:
        raise UserError(f"--check {flags.check}: no such engine to compare with", f"give {' or '.join(engines)}")
    if flags.engine and (flags.engine not in engines or flags.check not in (None, flags.engine)):
        raise UserError(f"--engine {flags.engine}: no such engine to predict", f"give {' or '.join(engines)}, the same as --check")
    if (flags.engine or flags.check) and load.output_len == 1:
        raise UserError("an engine's step is measured by its TPOT, which one output token has not", "give --output-len 2 or more")
    if flags.engine and flags.card:
        raise UserError("--engine is measured on this machine", "leave out --card")
    if flags.check and flags.card:
        raise UserError("--check compares with an engine on this machine", "leave out --card")
    if load.tp > 1 and (engine := flags.engine or flags.check) in ONE_RANK:
        raise UserError(f"{engine} runs on one rank", "leave out --tp, or check with vllm")
    if flags.check == "vllm" and flags.threads and flags.threads != cores_but_one():
        raise UserError(f"vllm binds {cores_but_one()} threads here, not {flags.threads}", "leave out --threads")


def _dtype(flags: Flags, shape: ModelShape) -> str:
    """Auto: a card's and a GPU's is the configuration's own; on a CPU bfloat16 where it multiplies that, as engines do."""
    if flags.precision != "auto":
        name = canonical(flags.precision)
        if name not in DTYPES:
            raise UserError(f"--precision '{flags.precision}' is unknown", "give auto, fp32, bf16 or fp16")
        return str(name)
    if flags.card or flags.device != "cpu":
        return shape.dtype
    return "bfloat16" if cpu_bfloat16_flag() else "float32"


def _basis(flags: Flags, shape: ModelShape, dtype: str, threads: int, say: Callable[[str], None]) -> Basis:
    if flags.card:
        card = cards.find(flags.card, cards.load(flags.cards))
        _fits(flags, shape, dtype, card.name, cards.memory_bytes(card))
        return Basis(Modelled(card), f"roofline of {card.name}: a bound, from its data sheet alone", all_hot=False)
    weights_bytes = size_bytes(dtype, shape.pass_values // flags.tp)
    all_hot = weights_bytes <= FITS_SHARE * (last_level_cache_bytes() if flags.device == "cpu" else GPU_CACHE_BYTES)
    if flags.from_run:
        return Basis(FromRun(flags.from_run), f"times of {flags.from_run}", all_hot)
    device = device_of(flags.device)
    pricing = _measuring(flags, device, threads, say)
    where = f"{threads} thread{'s' if threads > 1 else ''} of this CPU" if device == "cpu" else device
    memory = f"{weights_bytes / 2**20:.3g} MiB of weights " + ("stay in the cache" if all_hot else "come from memory")
    return Basis(pricing, f"measured on {where}; {memory}", all_hot)


def _measuring(flags: Flags, device: str, threads: int, say: Callable[[str], None]) -> Measuring:
    return Measuring(device, threads, _providers(flags), measure_s=flags.seconds, fresh=flags.fresh, say=say)


def _fits(flags: Flags, shape: ModelShape, dtype: str, device: str, memory_bytes: float | None) -> None:
    """Raises UserError where weights and KV cache are more than the devices' memory: nobody could run that."""
    cached = shape.cache_values(flags.batch_size * (flags.input_len + flags.output_len))
    weights_gb, cache_gb = (size_bytes(dtype, values) / flags.tp / GIGA for values in (shape.held_values, cached))
    if memory_bytes is not None and (weights_gb + cache_gb) * GIGA > memory_bytes:
        needs = f"{weights_gb:.3g} GB of weights and {cache_gb:.3g} GB of KV cache a rank"
        raise UserError(
            f"{needs} are more than the {memory_bytes / GIGA:.3g} GB of {device}", "give more ranks with --tp, or a smaller batch"
        )


def _providers(flags: Flags) -> list[str]:
    if flags.providers:
        for name in flags.providers:
            find_provider(name)
        return list(flags.providers)
    known = provider_names()
    return [name for name in ENGINES[flags.engine or flags.check or DEFAULT_ENGINE] if name in known]
