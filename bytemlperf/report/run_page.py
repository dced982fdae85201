"""The page of one run: verdict and headline figures, the suite's own sections, and what it takes to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec

from bytemlperf.hardware.measured import device_text, is_remote
from bytemlperf.report.gather import RunView
from bytemlperf.report.page import Page, Tile
from bytemlperf.report.text import UNAVAILABLE, counted, flattened, interval, number, unit
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure, Section, Table, Text
from bytemlperf.version import __version__

MAX_TILES = 8
IN_A_LINE = 3
MAX_FIGURE_ROWS = 400
AGAIN = "To run it again"


def run_page(view: RunView, *, running: bool = False) -> Page:
    """Of a run that is still `running` there is no verdict yet, and what it lacks is no fault."""
    if running:
        summary = {**(view.summary or {}), "verdict": "running", "reasons": [], "warnings": []}
        view = msgspec.structs.replace(view, summary=summary, problems=[])
    return Page(
        title=view.label,
        kicker=view.kind_name,
        verdict=view.verdict if view.summary is not None else "",
        verdict_says=view.suite.valid_means if view.verdict == "valid" and not view.reasons else "",
        reasons=view.reasons,
        facts=facts_of(view),
        problems=view.problems,
        warnings=view.warnings,
        tiles=[tile_of(figure, name) for name, figure in named_headlines(view.figures)],
        sections=[*view.sections, *_figure_sections(view), *again_sections(view)],
        footer=f"bytemlperf-llm {__version__}. Self-contained page; makes no network requests. {view.folder.name}",
    )


def headlines(figures: Sequence[Figure]) -> list[Figure]:
    """What stands first: the figures that their suite calls headlines, measured ones before the others."""
    chosen = [figure for figure in figures if figure.headline]
    return sorted(chosen, key=lambda figure: figure.value is None)[:MAX_TILES]


def headlines_text(figures: Sequence[Figure]) -> str:
    """A run in a line: its first headlines that were measured."""
    measured = (figure for figure in headlines(figures) if figure.value is not None)
    return " · ".join(f"{name_of(figure)} {number(figure.value)} {unit(figure.unit)}" for figure in islice(measured, IN_A_LINE))


def named_headlines(figures: Sequence[Figure]) -> list[tuple[str, Figure]]:
    """The headlines by the names that tell them apart; none where there are so many that they are a table, which the suite's own part
    has."""
    chosen = [figure for figure in figures if figure.headline]
    if len(chosen) > MAX_TILES:
        return []
    one_case = len({figure.key for figure in chosen}) == 1
    return [(figure.label or figure.metric.replace("_", " ") if one_case else name_of(figure), figure) for figure in headlines(chosen)]


def name_of(figure: Figure) -> str:
    return figure.label or f"{figure.key} {figure.metric}"


def tile_of(figure: Figure, name: str) -> Tile:
    """A headline figure with its interval, or why there is none."""
    if figure.value is None:
        return Tile(label=name, value=UNAVAILABLE, detail=figure.reason or "not measured")
    between = interval(figure.low, figure.high)
    detail = " · ".join(part for part in (between, f"n {figure.count:,}" if figure.count else "") if part)
    return Tile(label=name, value=number(figure.value), unit=unit(figure.unit), detail=detail)


def facts_of(view: RunView) -> list[tuple[str, str]]:
    """The line under the title: what was measured, where, when."""
    subject, versions = view.subject, part(view.subject, "versions")
    name = str(subject.get("name") or "")
    others = ", ".join(f"{other} {version}" for other, version in versions.items())
    named = f"{name} {versions[name]}" if name in versions else f"{name} ({others})" if others else name
    model = " ".join(str(part) for part in (subject.get("model"), subject.get("dtype")) if part and part != "none")
    found = [
        ("measured", named),
        ("load", view.suite.load_sentence(view.run)),
        *view.suite.facts(view.run),
        ("model", model),
        ("device", device_text(view.run, subject)),
        ("client machine" if is_remote(view.run) else "machine", _machine(part(view.run, "environment", "hardware"))),
        ("started", f"{view.started} UTC" if view.started else ""),
        ("took", _duration(view.run)),
        ("seed", str(view.run["seed"]) if view.run.get("seed") is not None else ""),
    ]
    notes = subject.get("notes")
    return [(name, text) for name, text in found if text] + [("note", str(note)) for note in (notes if isinstance(notes, list) else [])]


def _machine(hardware: dict[str, Any]) -> str:
    cpu, gpus = part(hardware, "cpu"), hardware.get("gpus")
    gpus = gpus if isinstance(gpus, list) else []
    parts = [str(gpu.get("name") or gpu) if isinstance(gpu, dict) else str(gpu) for gpu in gpus]
    if cpu.get("model"):
        cores = cpu.get("usable_cores") or cpu.get("logical_cores")
        parts.append(f"{cpu['model']}" + (f", {counted(cores, 'core')}" if cores else ""))
    return "; ".join(parts)


def _duration(run: dict[str, Any]) -> str:
    taken = part(run, "end").get("duration_ns")
    return f"{number(taken / 1e9)} s" if isinstance(taken, int | float) else ""


def _figure_sections(view: RunView) -> list[Section]:
    """Every comparable figure, folded."""
    if not view.figures:
        return []
    rows: list[list[str | float | int | None]] = [
        [figure.key, figure.metric, figure.value, unit(figure.unit), interval(figure.low, figure.high) or None, figure.count, figure.reason]
        for figure in view.figures[:MAX_FIGURE_ROWS]
    ]
    left = len(view.figures) - len(rows)
    note = f"{left} more are in the run folder: bmp report RUN --format json." if left > 0 else ""
    columns = ["case", "metric", "value", "unit", "95 % interval", "n", "remark"]
    title = f"All {len(view.figures)} figures"
    return [Table(title=title, columns=columns, rows=rows, note=note, folded=True, group="Figures for comparison")]


def again_sections(view: RunView) -> list[Section]:
    """The exact command, then configuration and environment."""
    run = view.run
    command = run.get("command")
    sections: list[Section] = []
    if command:
        words = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
        sections.append(Text(body=words, style="code", group=AGAIN))
    git = part(run, "environment", "git")
    told = [f"schedule {run['schedule_sha256']}"] if run.get("schedule_sha256") else []
    if git.get("commit"):
        told.append(f"git {git['commit']}" + (" with changes" if git.get("dirty") else ""))
    if told:
        sections.append(Text(body=", ".join(told), style="note", group=AGAIN))
    tables = (
        ("Configuration", run.get("config")),
        ("What was measured", view.subject),
        ("Client machine" if is_remote(run) else "Hardware", part(run, "environment", "hardware")),
        ("Packages", part(run, "environment", "packages")),
    )
    for title, content in tables:
        rows = [list(row) for row in flattened(content or {})]
        if rows:
            sections.append(Table(title=title, columns=["", ""], rows=rows, folded=True, group=AGAIN))
    return sections
