"""A comparison in words and tables: for a terminal and a page, for a pull request (Markdown), as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from bytemlperf.compare.comparison import Comparison, Row, Side, geometric_mean
from bytemlperf.compare.gate import bounds_text, percent
from bytemlperf.report.text import UNAVAILABLE, counted, escape_markdown, interval, markdown_table, number, unit
from bytemlperf.runs.kinds import Table, kind_name

JUDGED = {
    "better": "better",
    "worse": "worse",
    "different": "different",
    "negligible": "negligible",
    "same": "no difference",
    "unknown": "",
}
MAX_HEADLINES = 60
METHOD = (
    "A change is this run over the baseline, with its 95 % interval. better, worse: chance doesn't explain it (Benjamini and Hochberg "
    "over all figures, 5 % false alarms); negligible: a real change below --min-effect; otherwise no difference was seen, which is not "
    "the same as none."
)


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison with what is printed around it."""

    comparisons: list[Comparison]
    problems: list[str] = []
    failures: list[str] = []
    gated: bool = False
    normalised: list[Table] = []
    everything: bool = False


# -- words ----------------------------------------------------------------------------------


def sentence(comparison: Comparison, place: int) -> str:
    """One run against the baseline in a line."""
    counts = dict.fromkeys(JUDGED, 0)
    for row in comparison.rows:
        counts[row.sides[place].judgement] += 1
    told = [f"{JUDGED[name]} in {counts[name]}" for name in ("better", "worse", "different", "negligible") if counts[name]]
    if counts["same"] or not told:
        told.append(f"no difference seen in {counts['same']}")
    if counts["unknown"]:
        told.append(f"{counts['unknown']} can't be compared")
    base = comparison.names[comparison.baseline]
    of = counted(len(comparison.rows), "figure") + (", request by request on the same schedule" if comparison.paired[place] else "")
    return f"{comparison.names[place]} against {base}: {', '.join(told)} ({of})"


def others(comparison: Comparison) -> list[int]:
    """Every column but the baseline's."""
    return [place for place in range(len(comparison.names)) if place != comparison.baseline]


def shown_rows(comparison: Comparison, *, everything: bool) -> list[Row]:
    """All rows where that's asked for; else the headlines (all, where there are none), first those that can be compared, not too many."""
    if everything:
        return comparison.rows
    headlines = [row for row in comparison.rows if row.headline] or comparison.rows
    return sorted(headlines, key=lambda row: not any(side.ratio for side in row.sides))[:MAX_HEADLINES]


def left_out(comparison: Comparison, rows: Sequence[Row]) -> str:
    """How many rows are not shown, and how to see them; nothing where all are."""
    left = len(comparison.rows) - len(rows)
    return f"{counted(left, 'more figure')}: --all" if left > 0 else ""


def value_text(side: Side) -> str:
    """A figure with its interval below."""
    figure = side.figure
    if figure is None or figure.value is None:
        return UNAVAILABLE if figure is None else f"{UNAVAILABLE}\n{figure.reason}" if figure.reason else UNAVAILABLE
    between = interval(figure.low, figure.high)
    return f"{number(figure.value)}\n{between}" if between else number(figure.value)


def change_text(side: Side) -> str:
    """A change with its interval and judgement below."""
    difference = side.change
    if difference is None:
        return ""
    if difference.ratio is None:
        return UNAVAILABLE
    return "\n".join(part for part in (percent(difference.ratio), bounds_text(difference), JUDGED[side.judgement]) if part)


def row_name(row: Row, comparison: Comparison) -> str:
    """The label, with the case where there are several."""
    several = len({each.key for each in comparison.rows}) > 1
    named = row.label if not several or row.label.startswith(row.key) else f"{row.key} {row.label}"
    return f"{named}, {unit(row.unit)}" if row.unit else named


def bare_name(row: Row, comparison: Comparison) -> str:
    """The same without its unit."""
    return row_name(row, comparison).rpartition(",")[0] or row.label


def figure_table(
    comparison: Comparison, rows: Sequence[Row], title: str = "", *, places: Sequence[int] = (), folded: bool = False, group: str = ""
) -> Table:
    """Baseline, then a value and a change for each other run, or for those at `places`."""
    base = comparison.names[comparison.baseline]
    columns = ["", f"{base} (baseline)"]
    shown = places or others(comparison)
    for place in shown:
        columns += [comparison.names[place], "change"]
    body: list[list[str | float | int | None]] = []
    for row in rows:
        cells: list[str | float | int | None] = [row_name(row, comparison), value_text(row.sides[comparison.baseline])]
        for place in shown:
            cells += [value_text(row.sides[place]), change_text(row.sides[place])]
        body.append(cells)
    return Table(title=title, columns=columns, rows=body, folded=folded, group=group)


def overall_table(comparison: Comparison) -> Table | None:
    """Geometric means over the cases of each metric, where there are many."""
    metrics = list(dict.fromkeys(row.metric for row in comparison.rows))
    body: list[list[str | float | int | None]] = []
    for metric in metrics:
        rows = [row for row in comparison.rows if row.metric == metric]
        means = [geometric_mean(rows, place) for place in others(comparison)]
        if len(rows) > 1 and any(mean is not None for mean in means):
            body.append([metric, *(None if mean is None else f"{percent(mean[0])}\n{counted(mean[1], 'case')}" for mean in means)])
    if not body:
        return None
    columns = ["metric", *(comparison.names[place] for place in others(comparison))]
    return Table(title="Over all cases", columns=columns, rows=body, note="Geometric mean of the ratios to the baseline.")


# -- formats --------------------------------------------------------------------------------


def markdown(shown: Shown) -> str:
    parts = []
    for comparison in shown.comparisons:
        parts += [f"**{escape_markdown(comparison.different_loads)}**", ""] if comparison.different_loads else []
        parts.append(f"### {kind_name(comparison.kind)}: {escape_markdown(title_of(comparison))}")
        parts += [f"- {escape_markdown(text)}" for text in lines_of(comparison)] + [""]
        tables = [section for section in comparison.beside if isinstance(section, Table)]
        tables.append(figure_table(comparison, shown_rows(comparison, everything=shown.everything)))
        parts += map(markdown_table, tables)
        overall = overall_table(comparison)
        parts += [markdown_table(overall)] if overall else []
        if comparison.settings:
            parts += ["<details><summary>Settings that differ</summary>", "", markdown_table(settings_table(comparison)), "</details>", ""]
    parts += [markdown_table(table) for table in shown.normalised]
    parts += [f"- {escape_markdown(text)}" for text in shown.problems]
    if shown.gated:
        parts += ["", "**Gate: failed**" if shown.failures else "**Gate: passed**", ""]
        parts += [f"- {escape_markdown(text)}" for text in shown.failures]
    parts += ["", METHOD]
    return "\n".join(parts).rstrip() + "\n"


def lines_of(comparison: Comparison) -> list[str]:
    return [*(sentence(comparison, place) for place in others(comparison)), *comparison.notes]


def title_of(comparison: Comparison) -> str:
    base = comparison.names[comparison.baseline]
    return " and ".join(comparison.names[place] for place in others(comparison)) + f" against {base}" if others(comparison) else base


def as_json(shown: Shown) -> str:
    """Everything, for another program."""
    content = {
        "format_version": 1,
        "comparisons": [_json_of(comparison) for comparison in shown.comparisons],
        "problems": shown.problems,
        "failures": shown.failures,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _json_of(comparison: Comparison) -> dict[str, Any]:
    return {
        "kind": comparison.kind,
        "runs": [
            {"name": name, "folder": str(view.folder), "verdict": view.verdict, "reasons": view.reasons}
            for name, view in zip(comparison.names, comparison.views, strict=True)
        ],
        "baseline": comparison.names[comparison.baseline],
        "rows": [
            {**{name: getattr(row, name) for name in ("key", "metric", "label", "unit", "better")}, "sides": list(map(_side, row.sides))}
            for row in comparison.rows
        ],
        "different_loads": comparison.different_loads,
        "settings": comparison.settings,
        "notes": comparison.notes,
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        **{name: getattr(side.figure, name, None) for name in ("value", "low", "high", "count")},
        "reason": side.figure.reason if side.figure else "not measured",
        "change": None if side.change is None else msgspec.to_builtins(side.change),
        "judgement": side.judgement,
    }


def settings_table(comparison: Comparison) -> Table:
    return Table(title="Settings that differ", columns=["", *comparison.names], rows=comparison.settings, folded=True)
