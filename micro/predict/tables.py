"""A prediction in sections: each operator's part of both passes, what follows, and the engine beside it."""

from __future__ import annotations

from collections.abc import Sequence

from bytemlperf.runs.kinds import Section, Table, Text
from micro.predict.check import Checked, Compared
from micro.predict.prediction import Part, Prediction


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
    ttft = f"TTFT {_number(prediction.ttft_ms)} ms{_between(prediction.ttft_bounds_ms)}"
    tpot = "" if prediction.tpot_ms is None else f", TPOT {_number(prediction.tpot_ms)} ms{_between(prediction.tpot_bounds_ms)}"
    rest = f"E2E {_number(prediction.e2e_ms)} ms, {_number(prediction.output_tokens_per_s)} tokens/s"
    return f"predicted: {ttft}{tpot}, {rest} (operators alone, excluding the engine around them)"


def _between(bounds_ms: tuple[float, float] | None) -> str:
    return "" if bounds_ms is None else f" ({_number(bounds_ms[0])} – {_number(bounds_ms[1])})"


def _pass(title: str, parts: Sequence[Part]) -> Table:
    total_us = sum(part.total_us for part in parts)
    rows = [
        (
            *(part.step.part, part.step.op, str(part.step.calls), _number(part.price.call_us)),
            *(_number(part.total_us / 1000), f"{part.total_us / total_us:.1%}"),
            " ".join(word for word in (part.price.source, part.price.provider and f"({part.price.provider})") if word),
            part.price.remark,
        )
        for part in parts
    ]
    rows.append(("total", "", "", "", _number(total_us / 1000), "100%", "", ""))
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
    interval = "–" if figure.low is None or figure.high is None else f"{_number(figure.low)} – {_number(figure.high)}"
    predicted, measured = (f"{_number(value)} {figure.unit}" for value in (figure.predicted, figure.measured))
    return figure.name, predicted, measured, interval, f"{figure.error:+.1%}"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"
