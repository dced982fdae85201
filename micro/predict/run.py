"""What `bmp predict` does: check what was asked for, find prices, predict, print; with --check also measure and compare.

It prints each operator's part of both passes, what follows, and the engine beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.text import Text as RichText

from bytemlperf.command.console import print_sections, terminal
from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.models.shape import ModelShape, read_shape
from bytemlperf.report.text import UNAVAILABLE, interval, number
from bytemlperf.runs.files import writing
from bytemlperf.runs.kinds import Section, Table, Text
from engines.processor import cores_but_one, cpu_bfloat16_flag
from micro.cases.case import Arguments
from micro.command.run import device_of
from micro.operators.contract import canonical, size_bytes
from micro.peaks.machine import GPU_CACHE_BYTES, last_level_cache_bytes
from micro.predict.check import ENGINES, Checked, Compared, check
from micro.predict.costs import FromRun, Modelled, Pricing
from micro.predict.flags import Flags
from micro.predict.forward import Step
from micro.predict.measured import Measuring
from micro.predict.prediction import Load, Part, Prediction, as_json, predict, steps_of
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
        basis = _basis(flags, shape, dtype, threads, lambda sentence: status.update(RichText(sentence)))
        prediction = predict(shape, load, dtype, basis.pricing, all_hot=basis.all_hot)
        if flags.check:
            status.update(f"running {flags.check}: {load.batch} streams")
        checked = check(flags.check, flags.model, prediction, threads, flags.runs_dir) if flags.check else None
    if flags.json:
        print(json.dumps(_document(prediction, basis, checked), indent=1))
        return
    print_sections(terminal(), [*prediction_sections(prediction, basis.text), *(check_sections(checked) if checked else [])])


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
    if flags.check and flags.check not in ENGINES:
        raise UserError(f"--check {flags.check}: no such engine to compare with", f"give {' or '.join(ENGINES)}")
    if flags.check and flags.card:
        raise UserError("--check compares with an engine on this machine", "leave out --card")
    if flags.check and load.tp > 1 and flags.check == "transformers":
        raise UserError("transformers runs on one rank", "leave out --tp, or check with vllm")
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
    pricing = Measuring(device, threads, _providers(flags), measure_s=flags.seconds, fresh=flags.fresh, say=say)
    where = f"{threads} thread{'s' if threads > 1 else ''} of this CPU" if device == "cpu" else device
    memory = f"{weights_bytes / 2**20:.3g} MiB of weights " + ("stay in the cache" if all_hot else "come from memory")
    return Basis(pricing, f"measured on {where}; {memory}", all_hot)


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
    return [name for name in ENGINES[flags.check or DEFAULT_ENGINE] if name in known]


def _document(prediction: Prediction, basis: Basis, checked: Checked | None) -> dict[str, Any]:
    document = {**as_json(prediction), "basis": basis.text, "shape": msgspec.to_builtins(prediction.shape)}
    if checked:
        figures = [{**figure._asdict(), "error": figure.error} for figure in checked.figures]
        document["check"] = {**checked._asdict(), "run": str(checked.run), "figures": figures}
    return document


def prediction_sections(prediction: Prediction, basis: str) -> list[Section]:
    """Two tables and a summary."""
    load, shape = prediction.load, prediction.shape
    ranks = f", {load.tp} ranks" if load.tp > 1 else ""
    work = f"batch {load.batch}, {load.input_len} tokens in, {load.output_len} out"
    tables = [_pass(f"prefill: {load.batch} x {load.input_len} tokens", prediction.prefill)]
    if load.decode:
        tables.append(_pass(f"decode: a token each over {load.decode.cached} in the cache", prediction.decode))
    heads = (f"{shape.name} ({shape.model_type}, {prediction.dtype}): {work}{ranks}", basis)
    return [*(Text(body=head) for head in heads), *tables, Text(body=_summary(prediction))]


def _summary(prediction: Prediction) -> str:
    ttft = f"TTFT {number(prediction.ttft_ms)} ms{_between(prediction.ttft_bounds_ms)}"
    tpot = "" if prediction.tpot_ms is None else f", TPOT {number(prediction.tpot_ms)} ms{_between(prediction.tpot_bounds_ms)}"
    rest = f"E2E {number(prediction.e2e_ms)} ms, {number(prediction.output_tokens_per_s)} tokens/s"
    return f"predicted: {ttft}{tpot}, {rest} (operators alone, excluding the engine around them)"


def _between(bounds_ms: tuple[float, float] | None) -> str:
    return "" if bounds_ms is None else f" ({interval(*bounds_ms)})"


def _pass(title: str, parts: Sequence[Part]) -> Table:
    total_us = sum(part.total_us for part in parts)
    rows = [
        (
            *(part.step.part, part.step.op, str(part.step.calls), number(part.price.call_us)),
            *(number(part.total_us / 1000), f"{part.total_us / total_us:.1%}"),
            " ".join(word for word in (part.price.source, part.price.provider and f"({part.price.provider})") if word),
            part.price.remark,
        )
        for part in parts
    ]
    rows.append(("total", "", "", "", number(total_us / 1000), "100%", "", ""))
    columns = ("operator", "is", "calls", "µs each", "ms", "part", "from", "remark")
    return Table(title=title, columns=columns, rows=rows, spare=("is", "remark"))


def check_sections(checked: Checked) -> list[Section]:
    """Predicted beside measured, with the error; how it was measured."""
    table = Table(
        title=f"beside {checked.engine} on this machine ({checked.device}, {checked.dtype})",
        columns=("", "predicted", "measured (mean)", "95% interval", "error"),
        rows=[_compared(figure) for figure in checked.figures],
        note="error = predicted / measured − 1; it includes what the engine adds (scheduler, tokenizer, Python)",
    )
    notes = [Text(body=note, style="note") for note in checked.notes]
    return [table, *notes, *(Text(body=line, style="code") for line in (" ".join(checked.command), str(checked.run)))]


def _compared(figure: Compared) -> tuple[str, ...]:
    predicted, measured = (f"{number(value)} {figure.unit}" for value in (figure.predicted, figure.measured))
    return figure.name, predicted, measured, interval(figure.low, figure.high) or UNAVAILABLE, f"{figure.error:+.1%}"
