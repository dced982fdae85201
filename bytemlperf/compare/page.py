"""A comparison as a page: each change with its interval, distributions over each other, all figures, settings, methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bytemlperf.compare.comparison import Comparison, Row
from bytemlperf.compare.gate import bounds_text, percent
from bytemlperf.compare.show import (
    JUDGED,
    METHOD,
    Shown,
    bare_name,
    figure_table,
    lines_of,
    others,
    overall_table,
    row_name,
    sentence,
    settings_table,
    shown_rows,
    title_of,
)
from bytemlperf.lazy import numpy
from bytemlperf.report.blocks import dots, error_bars, line
from bytemlperf.report.gather import RunView
from bytemlperf.report.page import Page, Tile, render, short
from bytemlperf.report.pdf import print_page
from bytemlperf.report.text import unit
from bytemlperf.report.thin import distribution
from bytemlperf.runs.kinds import Plot, Section, Table, Text, kind_name
from bytemlperf.version import __version__

MAX_CURVES, MIN_CURVE_SAMPLES = 6, 30
MAX_FOREST_ROWS = 40
MAX_FOLDED_ROWS = 2_000


def page(shown: Shown) -> str:
    """HTML, self-contained. Raises UserError without jinja2."""
    return render(page_of(shown))


def as_pdf(shown: Shown) -> bytes:
    """The same page, printed. Raises UserError without jinja2, and without a browser."""
    return print_page(page(shown))


def page_of(shown: Shown) -> Page:
    first = shown.comparisons[0]
    sections: list[Section] = []
    for comparison in shown.comparisons:
        sections += _sections(comparison, "" if len(shown.comparisons) == 1 else f"{kind_name(comparison.kind)}: ")
    sections += [msgspec.structs.replace(table, group="Price and power") for table in shown.normalised]
    sections.append(Text(body=METHOD, style="note", group="Comparison methods"))
    sections.append(_method_table(first))
    verdict = "" if not shown.gated else "invalid" if shown.failures else "valid"
    return Page(
        title=title_of(first),
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


def _run_fact(view: RunView) -> str:
    return " · ".join(part for part in (str(view.subject.get("name") or ""), view.verdict, view.started[:16]) if part)


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
        x, y = [(ratio - 1) * 100 for _, _, ratio in known], [bare_name(row, comparison) for row, _, _ in known]
        bounds = [[((ratio if bound is None else bound) - 1) * 100 for bound in (change.low, change.high)] for _, change, ratio in known]
        marks = dots(comparison.names[place], x, y, "%{y}: %{x:+.2f} %", size=8, color=f"@{number_of % 8}")
        data.append(marks | {"error_x": error_bars(x, bounds, thickness=1.5, width=4)})
    zero = {"zeroline": True, "zerolinewidth": 2, "zerolinecolor": "@7"}
    layout = {
        "xaxis": {"title": f"change against {comparison.names[comparison.baseline]}, %", **zero},
        "yaxis": {"autorange": "reversed", "title": ""},
        "showlegend": len(data) > 1,
    }
    height = 110 + 30 * len(chosen)
    alt = "; ".join(lines_of(comparison))
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
    body: list[list[str | float | int | None]] = []
    for row in comparison.rows:
        for place in others(comparison):
            difference = row.sides[place].change
            if difference is not None:
                p = None if difference.p_value is None else f"{difference.p_value:.2g}"
                body.append([row_name(row, comparison), comparison.names[place], difference.method, p])
    return Table(title="Method per figure", columns=["figure", "run", "method", "p"], rows=body, folded=True, group="Comparison methods")
