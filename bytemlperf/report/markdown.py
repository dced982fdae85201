"""Markdown from blocks, in which nothing of the data acts: no markup, no HTML, no link."""

from __future__ import annotations

from bytemlperf.report.text import cell, visible
from bytemlperf.runs.kinds import Table


def markdown_table(table: Table) -> str:
    """GitHub's tables; a line break inside a cell is one tag."""
    heads = [escape_markdown(str(name)) or " " for name in table.columns]
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join([' :--- '] + [' ---: '] * (len(heads) - 1))}|"]
    for row in table.rows:
        cells = ["<br>".join(escape_markdown(line) for line in cell(value).split("\n")) for value in row]
        lines.append(f"| {' | '.join(cells)} |")
    title = [f"**{escape_markdown(table.title)}**", ""] if table.title else []
    return "\n".join([*title, *lines, "", *([escape_markdown(table.note), ""] if table.note else [])])


_MARKDOWN_ACTING = "\\`*_{}[]<>#|~!$"


def escape_markdown(text: str) -> str:
    """Nothing in it is markup, HTML or a link."""
    flat = " ".join(visible(text).split())
    return "".join(f"\\{char}" if char in _MARKDOWN_ACTING else "&amp;" if char == "&" else char for char in flat)
