"""The terminal's table: a row per job, failed ones with the reason; and the points of speed below."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from bytemlperf.command.console import first_that_fits
from bytemlperf.command.exits import markup_of

FILE_WIDTH, WIDEST = 160, 220
TEXTS, TEXT_WIDTH = ("model", "backend", "accuracy", "result"), 7
"""Columns that are folded where there is little room, so that no figure is cut, and their least width."""
FEW_JOBS = 6
"""Up to so many jobs, every point of speed is shown."""


def show(summary: dict[str, Any], folder: Path) -> None:
    """Print rows, points and verdict."""
    screen = console()
    if not screen.is_terminal:
        screen.width = WIDEST
    screen.print(_rows_table(summary["rows"], screen.width if screen.is_terminal else None))
    if len(summary["rows"]) <= FEW_JOBS:
        _show_points(summary, screen)
        _show_open(summary, screen)
    for row in summary["rows"]:
        if row["error_class"]:
            screen.print(
                f"{markup_of(row['job'])}: {row['error_class']}: {markup_of(row['reason'])}\n  fix: {markup_of(row['fix'])}", soft_wrap=True
            )
    for line in (*summary["reasons"], *summary["warnings"]):
        screen.print(f"note: {markup_of(line)}", soft_wrap=True)
    compiled = summary["first_try"]
    screen.print(f"compiled at first try: {compiled['compiled']} of {compiled['of']}   run: {folder}", soft_wrap=True)
    screen.print(str(summary["verdict"]).upper())


def console() -> Any:
    """As wide as the terminal; wide enough not to break figures where the output is a file."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


_COLUMNS: dict[str, Literal["left", "right"]] = {
    "model": "left",
    "backend": "left",
    "precision": "left",
    "compile s": "right",
    "answer s": "right",
    "graph, FLOPs %": "right",
    "int8 %": "right",
    "numerics": "left",
    "accuracy": "left",
    "samples/s": "right",
    "result": "left",
}
LEFT_OUT = ((), ("answer s",), ("answer s", "graph, FLOPs %"), ("answer s", "graph, FLOPs %", "compile s", "int8 %"))
"""Columns that a narrow terminal does without; the page has them all."""


def _rows_table(rows: list[dict[str, Any]], width: int | None) -> Any:
    """A row for each job, in as many columns as a terminal has room for (all where `width` is None); at last texts are folded,
    and no figure is ever cut."""
    unknown = () if any(row["int8_share"] is not None for row in rows) else ("int8 %",)
    choices = [[name for name in _COLUMNS if name not in (*left_out, *unknown)] for left_out in LEFT_OUT]
    if width is None:
        return _table_of(rows, choices[0])
    fitting = first_that_fits((_table_of(rows, columns) for columns in choices), width)
    if fitting is None:
        fitting = _table_of(rows, choices[-1])
        fitting.width = width
    return fitting


def _table_of(rows: list[dict[str, Any]], columns: list[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in columns:
        text = name in TEXTS
        table.add_column(name, justify=_COLUMNS[name], no_wrap=not text, overflow="fold", min_width=TEXT_WIDTH if text else None)
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells[name] for name in columns))
    return table


def _cells(row: dict[str, Any]) -> dict[str, str]:
    share = row["int8_share"]
    return {
        "model": row["model"],
        "backend": row["backend"],
        "precision": row["precision"],
        "compile s": _number(row["compile_s"]),
        "answer s": _number(row["first_answer_s"]),
        "graph, FLOPs %": _coverage(row),
        "int8 %": "–" if share is None else f"{100 * share:.3g}",
        "numerics": _numerics(row),
        "accuracy": ", ".join(f"{name} {value:.4f}" for name, value in row["accuracy"].items()) or "–",
        "samples/s": _number(row["best_samples_per_s"]),
        "result": row["status"] + (f": {row['error_class']}" if row["error_class"] else ""),
    }


def _show_points(summary: dict[str, Any], console: Any) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title="latency, ms (95 % interval below)", title_justify="left", pad_edge=False)
    for name in ("job", "point", "mean", "p50", "p90", "p99", "n", "samples/s"):
        table.add_column(name, justify="left" if name in ("job", "point") else "right")
    for key, metric in summary["metrics"].items():
        if not key.endswith("| latency"):
            continue
        job, point, _ = key.split(" | ")
        rate = summary["metrics"][f"{job} | {point} | throughput"]["mean"]
        claims, bounds = metric["percentiles"], metric["ci95"]
        cells = [_with_interval(metric["mean"], bounds["mean"])]
        cells += [_with_interval(claims[each], bounds[each]) for each in ("50", "90", "99")]
        table.add_row(job, point, *cells, str(metric["count"]), _number(rate))
    if table.row_count:
        console.print(table)


def _show_open(summary: dict[str, Any], console: Any) -> None:
    """What each open loop offered, and who was late: the model's queue is in the latency, the client's delay stands here."""
    from rich import box
    from rich.table import Table

    if not summary.get("open_loop"):
        return
    table = Table(box=box.SIMPLE_HEAD, title="open loop: calls per second, ms", title_justify="left", pad_edge=False)
    for name in ("job", "point", "target/s", "actual/s", "due", "dropped", "arrivals", "client late p50", "1 in 100", "service p50"):
        left = name in ("job", "point", "arrivals")
        table.add_column(name, justify="left" if left else "right", no_wrap=name == "job")
    for key, facts in summary["open_loop"].items():
        service = summary["metrics"].get(f"{key} | service time", {}).get("percentiles", {}).get("50")
        late = facts["late_ns"]
        table.add_row(
            *key.split(" | "),
            _number(facts["requested_rate"]),
            _number(facts["offered_rate"]),
            str(facts["planned"]),
            str(facts["dropped"]),
            arrivals_text(facts),
            "–" if late is None else _ms(late["p50"]),
            "–" if late is None or late["tail"] is None else _ms(late["tail"]),
            "–" if service is None else service if isinstance(service, str) else _ms(service),
        )
    console.print(table)


def arrivals_text(facts: dict[str, Any]) -> str:
    """The arrival test in words: D of Kolmogorov and Smirnov, with its p where the process is random."""
    if facts["distance"] is None:
        return f"{facts['process']}, insufficient"
    claim = f"D {facts['distance']:.3f}" + ("" if facts["p_value"] is None else f", p {facts['p_value']:.2g}")
    return f"{facts['process']}: {claim}"


def _with_interval(value: Any, bounds: Any) -> str:
    if value == "insufficient":
        return "insufficient"
    below = "\n[dim]no interval[/]" if bounds == "insufficient" else f"\n[dim]{_ms(bounds[0])} – {_ms(bounds[1])}[/]"
    return f"{_ms(value)}{below}"


def _ms(value_ns: float) -> str:
    return _number(value_ns / 1e6)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def _coverage(row: dict[str, Any]) -> str:
    shares = [row["graph_share"], row["flops_share"]]
    return "–" if shares == [None, None] else ", ".join("–" if each is None else f"{100 * each:.4g}" for each in shares)


def _numerics(row: dict[str, Any]) -> str:
    """Pass or fail, with the largest difference over the reference's root mean square."""
    if row["numerics_passed"] is None:
        return "–"
    word = "pass" if row["numerics_passed"] else "FAIL"
    return word if row["scaled_max"] is None else f"{word} {row['scaled_max']:.1e}"
