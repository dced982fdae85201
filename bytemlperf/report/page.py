"""One self-contained HTML page from blocks: plotly, style and script inlined, everything else text.

Security: the Content-Security-Policy forbids everything but the page's own scripts and styles, which
it names by their SHA-256; no `unsafe-inline`, no `unsafe-eval`, no address. Text is escaped by the
template engine; what plots and tables hold travels as JSON in a data block, in which `<`, `>` and `&`
are written as escapes, and reaches the document through `textContent` and plotly with its markup escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.extras import require
from bytemlperf.report.terms import TERMS, term_id, term_in
from bytemlperf.report.text import cell, mostly_numbers, visible
from bytemlperf.runs.kinds import Plot, Section, Table, Text

ASSETS = Path(__file__).parent / "assets"
SLIM_COLUMNS = 3  # a table of so few is not stretched over the page
SHORT_CHARS, LONG_CHARS = 16, 48
"""Texts up to so long wrap as they like; longer ones get room in a wide table."""
SIGNIFICANT_DIGITS = 6  # of a number in a plot: a screen has four


class Tile(msgspec.Struct, frozen=True, kw_only=True):
    """A headline figure. `detail` stands under it, as its interval does."""

    label: str
    value: str
    unit: str = ""
    detail: str = ""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What a page says, in the order it says it. `facts` are the small line of label and text under the title."""

    title: str
    kicker: str = ""
    verdict: str = ""
    verdict_word: str = ""
    verdict_says: str = ""
    reasons: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = ()
    footer: str = ""


def render(page: Page) -> str:
    """The page as HTML. Raises UserError without jinja2."""
    plots: list[dict[str, Any]] = []
    groups = []
    for number, (heading, members) in enumerate(groupby(page.sections, key=lambda section: section.group or section.title)):
        blocks = [_block(member, heading, plots) for member in members]
        groups.append({"id": f"s{number}", "heading": visible(heading), "blocks": blocks})
    script = _asset("page.js")
    style, plotly_style = _asset("page.css"), _asset("plotly.css")
    plotly = _asset("plotly-cartesian.min.js") if plots else ""
    scripts = [text for text in (plotly, script) if text]
    policy = content_security_policy(scripts, [style, *([plotly_style] if plots else [])])
    return str(
        templates(ASSETS)
        .get_template("page.html.j2")
        .render(
            page=page,
            groups=groups,
            policy=policy,
            style=style,
            plotly_style=plotly_style if plots else "",
            plotly=plotly,
            script=script,
            data=data_block(plots),
        )
    )


def render_watch(title: str) -> tuple[str, str]:
    """The page around the report of a run that goes on, and the policy to serve it with. Raises UserError without jinja2."""
    style, script = _asset("watch.css"), _asset("watch.js")
    html = templates(ASSETS).get_template("watch.html.j2").render(title=title, style=style, script=script)
    return str(html), f"{content_security_policy([script], [style])}; connect-src 'self'; frame-src 'self'; frame-ancestors 'none'"


def content_security_policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Nothing is allowed but these inline scripts and styles, named by their hashes, and pictures made in the page."""
    parts = (
        "default-src 'none'",
        " ".join(("script-src", *map(_hash_source, scripts))),
        " ".join(("style-src", *map(_hash_source, styles))),
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(parts)


def data_block(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(plain_json(value), allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 and lone surrogates are escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain_json(value: Any) -> Any:
    """The same with visible strings and short numbers; what JSON has no number for is a gap."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return short(value)
    if isinstance(value, dict):
        return {visible(str(key)): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if hasattr(value, "tolist"):  # numpy
        return plain_json(value.tolist())
    return visible(str(value))


def short(value: float) -> float | int | None:
    """Six significant digits."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _block(section: Section, heading: str, plots: list[dict[str, Any]]) -> dict[str, Any]:
    title = "" if section.title == heading else visible(section.title)
    if isinstance(section, Text):
        return {"type": "text", "title": title, "body": visible(section.body), "style": section.style, "folded": section.folded}
    if isinstance(section, Table):
        table = _table(section)
        return {"type": "table", "title": title or (heading if table["folded"] else ""), **table}
    assert isinstance(section, Plot)
    plots.append({"data": section.data, "layout": section.layout, "height": section.height, "title": section.title})
    alt = visible(section.alt or section.title)
    return {"type": "plot", "title": title, "number": len(plots) - 1, "note": visible(section.note), "alt": alt, "half": section.half}


def _table(table: Table) -> dict[str, Any]:
    columns = [visible(str(name)) for name in table.columns]
    width = len(columns)
    rows = [[cell(value) for value in row][:width] for row in table.rows]
    right = [mostly_numbers([row[place] for row in rows if place < len(row)]) for place in range(width)]
    style = ["n" if right[place] else _room([row[place] for row in rows if place < len(row)]) for place in range(width)]
    shown = [[{"lines": text.split("\n"), "style": style[place]} for place, text in enumerate(row)] for row in rows]
    heads = [{"text": name, "style": "n" if right[place] else ""} for place, name in enumerate(columns)]
    blank = not any(columns)
    return {
        "columns": [] if blank else heads,
        "rows": shown,
        "note": visible(table.note),
        "folded": table.folded,
        "slim": width <= SLIM_COLUMNS,
    }


def _room(texts: Sequence[str]) -> str:
    """The class of a column of texts: one of long texts keeps a width that can be read, however many columns there are."""
    longest = max((len(line) for text in texts for line in text.split("\n")), default=0)
    return "w2" if longest > LONG_CHARS else "w1" if longest > SHORT_CHARS else ""


def _hash_source(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@lru_cache(maxsize=8)
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@cache
def templates(folder: Path) -> Any:
    """jinja2's environment of the templates in a folder. Raises UserError without jinja2."""
    require("a page", "report", "jinja2")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(folder)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"visible": visible, "term_in": term_in, "term_id": term_id}
    environment.globals["terms"] = TERMS
    return environment
