"""What `bmp predict` prints: each operator's part of both passes, what follows, the engine around them, and the engine itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bytemlperf.models.shape import ModelShape
from bytemlperf.report.text import UNAVAILABLE, interval, number
from bytemlperf.runs.kinds import Section, Table, Text
from micro.predict.between import Between
from micro.predict.check import Checked, Compared
from micro.predict.layers import Layered
from micro.predict.prediction import Load, Part, Prediction
from micro.predict.schedule import Served


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


def between_sections(engine: str, parts: Between, prediction: Prediction) -> list[Section]:
    """What an engine adds to a decode pass and to a request."""
    streams = prediction.load.batch
    rows = [
        ("a layer: launches, Python, unfused operators", str(parts.layers), number(parts.layer_ms)),
        ("a step: scheduler, sampler, detokenizer, transport", "1", number(parts.step_ms)),
        ("a further stream in a step", str(streams - 1), number(parts.stream_ms)),
        ("a request: template, tokenizer, front end, transport", "1", number(parts.request_ms)),
    ]
    step = f"{number(parts.of_step(streams))} ms beside the operators' {number(prediction.tpot_ms)} ms"
    note = f"Of models of {parts.layers} and 2 layers and hardly any arithmetic, less their operators. A step of all streams: {step}."
    return [Table(title=f"between {engine}'s operators", columns=("", "times", "ms each"), rows=rows, note=note)]


def layer_sections(engine: str, depths: Layered, shape: ModelShape, load: Load) -> list[Section]:
    """What a layer and the rest take of each figure."""
    names = (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("E2E", "e2e_ms"))
    rows = [
        (title, *map(number, (getattr(depths.few, name), getattr(depths.more, name), depths.of_layer(name), depths.rest(name))))
        for title, name in names
    ]
    title = f"{shape.name} on {engine}: batch {load.batch}, {load.input_len} tokens in, {load.output_len} out; ms"
    columns = ("", *(f"{depth.layers} layers" for depth in (depths.few, depths.more)), "a layer", "the rest")
    note = f"{engine} compiles a model as a whole: its operator is a layer, measured on the engine itself at two depths."
    return [Table(title=title, columns=columns, rows=rows, note=note)]


def served_section(engine: str, served: Served) -> Text:
    """An engine's figures in a line."""
    tpot = "" if served.tpot_ms is None else f"TPOT {number(served.tpot_ms)} ms, "
    rest = f"E2E {number(served.e2e_ms)} ms, {number(served.output_tokens_per_s)} tokens/s"
    return Text(body=f"predicted of {engine}: TTFT {number(served.ttft_ms)} ms, {tpot}{rest} (in a closed loop)")


def check_document(checked: Checked) -> dict[str, Any]:
    """For programs."""
    figures = [{**figure._asdict(), "error": figure.error} for figure in checked.figures]
    measured = {**checked.measured._asdict(), "run": str(checked.measured.run)}
    return {"engine": checked.engine, "command": checked.command, "figures": figures, **measured}


def check_sections(checked: Checked) -> list[Section]:
    """Predicted beside measured, with the error; how it was measured."""
    table = Table(
        title=f"beside {checked.engine} on this machine ({checked.measured.device}, {checked.measured.dtype})",
        columns=("", "predicted", "measured (mean)", "95% interval", "error"),
        rows=[_compared(figure) for figure in checked.figures],
        note="error = predicted / measured − 1",
    )
    notes = [Text(body=note, style="note") for note in checked.measured.notes]
    return [table, *notes, *(Text(body=line, style="code") for line in (" ".join(checked.command), str(checked.measured.run)))]


def _compared(figure: Compared) -> tuple[str, ...]:
    predicted, measured = (f"{number(value)} {figure.unit}" for value in (figure.predicted, figure.measured))
    return figure.name, predicted, measured, interval(figure.low, figure.high) or UNAVAILABLE, f"{figure.error:+.1%}"
