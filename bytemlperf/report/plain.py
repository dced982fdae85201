"""A run's report as Markdown, for a pull request or a wiki, and as JSON, for another program."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from bytemlperf.report.gather import RunView
from bytemlperf.report.page import plain_json
from bytemlperf.report.run_page import run_page
from bytemlperf.report.text import escape_markdown, markdown_table, visible
from bytemlperf.runs.kinds import Figure, Plot, Section, Table, Text

FORMAT_VERSION = 1
MAX_ROWS = 200


def markdown_report(view: RunView) -> str:
    """Verdict and headline figures, then every table and, in words, every plot."""
    page = run_page(view)
    parts = [f"# {escape_markdown(page.title)}", ""]
    parts += [", ".join(f"{escape_markdown(name)} {escape_markdown(text)}" for name, text in page.facts), ""]
    if page.verdict:
        parts += [f"**{escape_markdown(page.verdict.upper())}** {escape_markdown(page.verdict_says)}".rstrip(), ""]
    parts += [f"- {escape_markdown(text)}" for text in (*page.reasons, *page.problems, *page.warnings)]
    if page.tiles:
        rows = [[tile.label, f"{tile.value} {tile.unit}".strip(), tile.detail] for tile in page.tiles]
        parts += ["", markdown_table(Table(title="", columns=["", "value", "95 % interval"], rows=rows))]
    heading = ""
    for section in page.sections:
        group = section.group or section.title
        if group != heading:
            parts += ["", f"## {escape_markdown(group)}", ""]
            heading = group
        parts += [_section(section, heading), ""]
    return "\n".join(parts).rstrip() + "\n"


def _section(section: Section, heading: str) -> str:
    if isinstance(section, Text):
        if section.style == "code":
            fence = "`" * (3 + section.body.count("`"))
            return f"{fence}\n{visible(section.body)}\n{fence}"
        return escape_markdown(section.body)
    if isinstance(section, Plot):
        return f"*{escape_markdown(section.title)}*: {escape_markdown(section.alt)}. (Drawn in the HTML and PDF reports.)"
    title = "" if section.title == heading else section.title
    cut = msgspec.structs.replace(section, title=title, rows=section.rows[:MAX_ROWS])
    left = len(section.rows) - len(cut.rows)
    return markdown_table(cut) + (f"\n{left} more rows are left out.\n" if left > 0 else "")


def json_report(view: RunView) -> str:
    """The run, its summary and its figures with all digits; `problems` says what could not be read."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "folder": view.folder.name,
        "kind": view.kind,
        "label": view.label,
        "verdict": view.verdict,
        "problems": view.problems,
        "figures": [_figure(figure) for figure in view.figures],
        "summary": view.summary,
        "run": view.run,
    }
    return json.dumps(content, indent=2, ensure_ascii=True, default=plain_json) + "\n"


def _figure(figure: Figure) -> dict[str, Any]:
    """Without the samples, which are the run's records."""
    fields = ("key", "metric", "label", "unit", "value", "low", "high", "count", "better", "statistic", "headline", "reason")
    return {name: getattr(figure, name) for name in fields}
