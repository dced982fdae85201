"""A prediction on the terminal: each operator's part of both passes, what follows, and the engine beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from micro.predict.check import Checked
from micro.predict.prediction import Part, Prediction

PIPED_WIDTH = 160


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


def _print_pass(title: str, parts: Sequence[Part], console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    total = sum(part.total_us for part in parts)
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1), header_style="bold", show_footer=True)
    table.add_column("operator", "total", no_wrap=True)
    table.add_column("is", no_wrap=True)
    for name, footer in (("calls", ""), ("µs each", ""), ("ms", _number(total / 1000)), ("part", "100%")):
        table.add_column(name, footer, justify="right", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("remark", overflow="fold")
    for part in parts:
        source = " ".join(word for word in (part.price.source, part.price.provider and f"({part.price.provider})") if word)
        figures = (str(part.step.calls), _number(part.price.call_us), _number(part.total_us / 1000), f"{part.total_us / total:.1%}")
        table.add_row(*map(Text, (part.step.part, part.step.op, *figures, source, part.price.remark)))
    console.print(table)
    console.print()


def print_check(checked: Checked) -> None:
    """Predicted beside measured, with the error; how it was measured."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    title = f"\nbeside {checked.engine} on this machine ({checked.device}, {checked.dtype})"
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1), header_style="bold")
    for name in ("", "predicted", "measured (mean)", "95% interval", "error"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for figure in checked.figures:
        interval = "–" if figure.low is None or figure.high is None else f"{_number(figure.low)} – {_number(figure.high)}"
        measured = f"{_number(figure.measured)} {figure.unit}"
        table.add_row(figure.name, f"{_number(figure.predicted)} {figure.unit}", measured, interval, f"{figure.error:+.1%}")
    console.print(table)
    console.print("error = predicted / measured − 1; it includes what the engine adds (scheduler, tokenizer, Python)", style="dim")
    for note in checked.notes:
        console.print(f"  {note}", style="dim", markup=False)
    console.print(" ".join(checked.command), markup=False, highlight=False, soft_wrap=True)
    console.print(str(checked.run), markup=False, highlight=False, soft_wrap=True)


def _console() -> Any:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH  # a pipe has no width: cut nothing
    return console


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"
