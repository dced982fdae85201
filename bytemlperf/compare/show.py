"""A comparison for a terminal, for a pull request (Markdown), as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from bytemlperf.compare.comparison import Comparison, Row, Side, geometric_mean
from bytemlperf.compare.gate import bounds_text, percent
from bytemlperf.lazy import numpy
from bytemlperf.report.blocks import dots, line
from bytemlperf.report.page import Page, Tile, render, short
from bytemlperf.report.pdf import print_page
from bytemlperf.report.text import UNAVAILABLE, counted, escape_markdown, interval, markdown_table, number, unit
from bytemlperf.report.thin import distribution
from bytemlperf.runs.kinds import Plot, Section, Table, Text, kind_name
from bytemlperf.version import __version__

JUDGED = {
    "better": "better",
    "worse": "worse",
    "different": "different",
    "negligible": "negligible",
    "same": "no difference",
    "unknown": "",
}
MAX_CURVES, MIN_CURVE_SAMPLES = 6, 30
MAX_FOREST_ROWS = 40
MAX_HEADLINES = 60
MAX_FOLDED_ROWS = 2_000
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
            body.append([metric, *(None if mean is None else f"{percent(mean[0])}\n{mean[1]} cases" for mean in means)])
    if not body:
        return None
    columns = ["metric", *(comparison.names[place] for place in others(comparison))]
    return Table(title="Over all cases", columns=columns, rows=body, note="Geometric mean of the ratios to the baseline.")


# -- formats --------------------------------------------------------------------------------


def markdown(shown: Shown) -> str:
    """For a pull request."""
    parts = []
    for comparison in shown.comparisons:
        parts += [f"**{escape_markdown(comparison.different_loads)}**", ""] if comparison.different_loads else []
        parts.append(f"### {kind_name(comparison.kind)}: {escape_markdown(_title(comparison))}")
        parts += [f"- {escape_markdown(text)}" for text in _lines(comparison)] + [""]
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


def _lines(comparison: Comparison) -> list[str]:
    return [*(sentence(comparison, place) for place in others(comparison)), *comparison.notes]


def _title(comparison: Comparison) -> str:
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
    """What differs between the runs besides their results."""
    return Table(title="Settings that differ", columns=["", *comparison.names], rows=comparison.settings, folded=True)


# -- the page -------------------------------------------------------------------------------


def page(shown: Shown) -> str:
    """HTML, self-contained. Raises UserError without jinja2."""
    return render(page_of(shown))


def as_pdf(shown: Shown) -> bytes:
    """The same page, printed. Raises UserError without jinja2, and without a browser."""
    return print_page(page(shown))


def page_of(shown: Shown) -> Page:
    """What the page says."""
    first = shown.comparisons[0]
    sections: list[Section] = []
    for comparison in shown.comparisons:
        sections += _sections(comparison, "" if len(shown.comparisons) == 1 else f"{kind_name(comparison.kind)}: ")
    sections += [msgspec.structs.replace(table, group="Price and power") for table in shown.normalised]
    sections.append(Text(body=METHOD, style="note", group="Comparison methods"))
    sections.append(_method_table(first))
    verdict = "" if not shown.gated else "invalid" if shown.failures else "valid"
    return Page(
        title=_title(first),
        kicker=f"Comparison, {', '.join(kind_name(each.kind) for each in shown.comparisons)}",
        verdict=verdict,
        verdict_word="" if not shown.gated else "GATE FAILED" if shown.failures else "GATE PASSED",
        reasons=shown.failures,
        facts=[(name, _run_fact(view)) for each in shown.comparisons for name, view in zip(each.names, each.views, strict=True)],
        problems=[*(each.different_loads for each in shown.comparisons if each.different_loads), *shown.problems],
        warnings=[note for each in shown.comparisons for note in each.notes],
        tiles=_tiles(first),
        sections=sections,
        footer=f"bytemlperf-llm {__version__}. Self-contained page; makes no network requests.",
    )


def _run_fact(view: Any) -> str:
    started = str(view.run.get("started_at", ""))[:16].replace("T", " ")
    return " · ".join(part for part in (str(view.subject.get("name") or ""), view.verdict, started) if part)


def _tiles(comparison: Comparison) -> list[Tile]:
    """The headline changes, where one run is compared."""
    if len(others(comparison)) != 1:
        return []
    place = others(comparison)[0]
    tiles = []
    for row in shown_rows(comparison, everything=False)[:8]:
        side = row.sides[place]
        if side.change is None or side.change.ratio is None:
            continue
        detail = " · ".join(part for part in (JUDGED[side.judgement], bounds_text(side.change)) if part)
        tiles.append(Tile(label=bare_name(row, comparison), value=percent(side.change.ratio), detail=detail))
    return tiles


def _sections(comparison: Comparison, prefix: str) -> list[Section]:
    group = f"{prefix}Differences"
    told = "\n".join(sentence(comparison, place) + "." for place in others(comparison))
    sections: list[Section] = [*comparison.beside, Text(body=told, group=group)]
    rows = shown_rows(comparison, everything=False)
    forest = _forest(comparison, rows, group)
    sections += [forest] if forest else []
    sections.append(figure_table(comparison, rows, "Headline figures" if len(rows) < len(comparison.rows) else "", group=group))
    overall = overall_table(comparison)
    sections += [msgspec.structs.replace(overall, group=group)] if overall else []
    if len(rows) < len(comparison.rows):
        every = comparison.rows[:MAX_FOLDED_ROWS]
        title = (
            f"All {len(every):,} figures" if len(every) == len(comparison.rows) else f"{len(every):,} of {len(comparison.rows):,} figures"
        )
        sections.append(figure_table(comparison, every, title, folded=True, group=group))
    sections += _curves(comparison, f"{prefix}Distributions")
    if comparison.settings:
        sections.append(
            msgspec.structs.replace(
                settings_table(comparison), title="Settings, hardware and packages", group=f"{prefix}Settings that differ"
            )
        )
    return sections


def _forest(comparison: Comparison, rows: Sequence[Row], group: str) -> Plot | None:
    """Each change as a dot with its interval, around no change."""
    chosen = [row for row in rows if any(side.ratio for side in row.sides)][:MAX_FOREST_ROWS]
    if not chosen:
        return None
    data = []
    for number_of, place in enumerate(others(comparison)):
        known = [(row, side.change, side.ratio) for row in chosen for side in [row.sides[place]] if side.change is not None and side.ratio]
        up, down = (
            [0 if bound is None else abs(bound - ratio) * 100 for (_, _, ratio), bound in zip(known, bounds, strict=True)]
            for bounds in ([each.high for _, each, _ in known], [each.low for _, each, _ in known])
        )
        around = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5, "width": 4}
        x, y = [(ratio - 1) * 100 for _, _, ratio in known], [bare_name(row, comparison) for row, _, _ in known]
        marks = dots(comparison.names[place], x, y, "%{y}: %{x:+.2f} %", size=8, color=f"@{number_of % 8}")
        data.append(marks | {"error_x": around})
    zero = {"zeroline": True, "zerolinewidth": 2, "zerolinecolor": "@7"}
    layout = {
        "xaxis": {"title": f"change against {comparison.names[comparison.baseline]}, %", **zero},
        "yaxis": {"autorange": "reversed", "title": ""},
        "showlegend": len(data) > 1,
    }
    height = 110 + 30 * len(chosen)
    alt = "; ".join(_lines(comparison))
    return Plot(title="Change with its 95 % interval", data=data, layout=layout, height=height, alt=alt, group=group)


def _curves(comparison: Comparison, group: str) -> list[Plot]:
    """Distribution functions of the headline figures that have samples, all runs in one plot."""
    plots: list[Plot] = []
    seen: set[tuple[str, str]] = set()
    for row in shown_rows(comparison, everything=False):
        with_samples = [
            (place, side.figure)
            for place, side in enumerate(row.sides)
            if side.figure is not None and len(side.figure.samples) >= MIN_CURVE_SAMPLES
        ]
        stem = (row.key, row.metric.removesuffix(with_samples[0][1].statistic) if with_samples else "")
        if len(with_samples) < 2 or stem in seen or len(plots) >= MAX_CURVES:
            continue
        seen.add(stem)
        data = []
        for place, figure in with_samples:
            x, share = _distribution(figure.samples)
            hover = "%{y:.1f} % within %{x:.4~g}"
            data.append(line(comparison.names[place], x, share, hover, shape="hv", width=2, color=f"@{place % 8}"))
        title = row.label.removesuffix(with_samples[0][1].statistic).strip() or row.label
        layout = {"xaxis": {"title": unit(row.unit), "rangemode": "tozero"}, "yaxis": {"title": "share, %", "range": [0, 101]}}
        alt = f"distribution of {title} in {len(data)} runs"
        plots.append(Plot(title=title, data=data, layout=layout, half=True, alt=alt, group=group))
    return plots


def _distribution(samples: Sequence[float]) -> tuple[list[Any], list[Any]]:
    values = numpy.asarray(samples, dtype="f8")
    x, share = distribution(values)
    return [short(value) for value in x.tolist()], [short(value * 100) for value in share.tolist()]


def _method_table(comparison: Comparison) -> Table:
    """By which method each change was judged."""
    body: list[list[str | float | int | None]] = []
    for row in comparison.rows:
        for place in others(comparison):
            difference = row.sides[place].change
            if difference is not None:
                p = None if difference.p_value is None else f"{difference.p_value:.2g}"
                body.append([row_name(row, comparison), comparison.names[place], difference.method, p])
    return Table(title="Method per figure", columns=["figure", "run", "method", "p"], rows=body, folded=True, group="Comparison methods")
