"""A prediction on the terminal: each operator's part of both passes, what follows, and the engine beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

from bytemlperf.command.console import first_that_fits, listing
from micro.predict.check import Checked, Compared
from micro.predict.prediction import Part, Prediction

PIPED_WIDTH = 160
FIGURES = ("calls", "µs each", "ms", "part")
COLUMNS = ("operator", "is", *FIGURES, "from", "remark")
LEFT_OUT = ((), ("is",), ("remark",), ("is", "remark"), ("is", "from", "remark"))
"""Columns that a narrow terminal does without."""


def print_prediction(prediction: Prediction, basis: str) -> None:
    """Two tables and a summary."""
    console, load, shape = _console(), prediction.load, prediction.shape
    ranks = f", {load.tp} ranks" if load.tp > 1 else ""
    work = f"batch {load.batch}, {load.input_len} tokens in, {load.output_len} out"
    console.print(f"{shape.name} ({shape.model_type}, {prediction.dtype}): {work}{ranks}", markup=False, highlight=False)
    console.print(f"{basis}\n", markup=False, highlight=False, soft_wrap=True)
    _print_pass(f"prefill: {load.batch} x {load.input_len} tokens", prediction.prefill, console)
    if load.decode:
        _print_pass(f"decode: a token each over {load.decode.cached} in the cache", prediction.decode, console)
    console.print(_summary(prediction), markup=False, highlight=False)


def _summary(prediction: Prediction) -> str:
    ttft = f"TTFT {_number(prediction.ttft_ms)} ms{_between(prediction.ttft_bounds_ms)}"
    tpot = "" if prediction.tpot_ms is None else f", TPOT {_number(prediction.tpot_ms)} ms{_between(prediction.tpot_bounds_ms)}"
    rest = f"E2E {_number(prediction.e2e_ms)} ms, {_number(prediction.output_tokens_per_s)} tokens/s"
    return f"predicted: {ttft}{tpot}, {rest} (operators alone, excluding the engine around them)"


def _between(bounds_ms: tuple[float, float] | None) -> str:
    return "" if bounds_ms is None else f" ({_number(bounds_ms[0])} – {_number(bounds_ms[1])})"


def _print_pass(title: str, parts: Sequence[Part], console: Console) -> None:
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
    console.print(title, markup=False)
    console.print(first_that_fits((_without(left_out, rows) for left_out in LEFT_OUT), console.width) or _without(LEFT_OUT[-1], rows))


def _without(left_out: Collection[str], rows: Sequence[tuple[str, ...]]) -> Table:
    kept = [place for place, name in enumerate(COLUMNS) if name not in left_out]
    columns = [COLUMNS[place] for place in kept]
    return listing(columns, [[row[place] for place in kept] for row in rows], right=FIGURES, whole=FIGURES)


def print_check(checked: Checked) -> None:
    """Predicted beside measured, with the error; how it was measured."""
    console = _console()
    console.print(f"beside {checked.engine} on this machine ({checked.device}, {checked.dtype})", markup=False)
    columns = ("", "predicted", "measured (mean)", "95% interval", "error")
    console.print(listing(columns, map(_compared, checked.figures), right=columns[1:]))
    console.print("error = predicted / measured − 1; it includes what the engine adds (scheduler, tokenizer, Python)", style="dim")
    for note in checked.notes:
        console.print(f"  {note}", style="dim", markup=False)
    console.print(" ".join(checked.command), markup=False, highlight=False, soft_wrap=True)
    console.print(str(checked.run), markup=False, highlight=False, soft_wrap=True)


def _compared(figure: Compared) -> tuple[str, ...]:
    interval = "–" if figure.low is None or figure.high is None else f"{_number(figure.low)} – {_number(figure.high)}"
    predicted, measured = (f"{_number(value)} {figure.unit}" for value in (figure.predicted, figure.measured))
    return figure.name, predicted, measured, interval, f"{figure.error:+.1%}"


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH  # a pipe has no width: cut nothing
    return console


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"
