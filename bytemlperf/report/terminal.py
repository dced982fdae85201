"""The end of a run in a terminal, the same for every suite: what was measured, its sections, warnings, verdict, what to do next."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytemlperf.command.console import print_sections, print_text, terminal
from bytemlperf.command.exits import one_line
from bytemlperf.errors import UserError
from bytemlperf.export.perfetto import export_timeline
from bytemlperf.report.gather import RunView
from bytemlperf.report.run_page import facts_of, named_headlines
from bytemlperf.report.text import interval, number, unit
from bytemlperf.runs.conditions import unmet
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.kinds import Figure, Plot, run_kind
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.verdicts import COLOURS

if TYPE_CHECKING:
    from rich.console import Console

    from bytemlperf.command.flags import RunOutput

EXIT_GATE = 1
FACTS = ("measured", "server", "load", "prefix cache", "model", "device", "seed")


def publish(
    folder: Path,
    summary: dict[str, Any],
    output: RunOutput,
    *,
    run: dict[str, Any] | None = None,
    records: RunRecords[Any] | None = None,
    written: Iterable[Path] = (),
    **shown: Any,
) -> int:
    """What the command of a finished run prints: the run (as on disk unless given; `shown` as `print_run` has it) and the files `written`
    of it, unless it is quiet; its folder, the last line on standard output; in their place the summary as JSON where that is wanted. The
    exit status, as its kind has it, and 1 where a condition of --fail-if says so."""
    run = read_run_json(folder) if run is None else run
    kind = run_kind(str(run.get("kind")))
    failures: list[str] = []
    if not output.compares and output.fail_if:
        failures = unmet(kind.figures(run, summary, RunRecords(folder, kind.record, samples=False)), output.fail_if)
    if output.perfetto:
        shown = {**shown, "files": {**shown.get("files", {}), **timeline_of(folder, run)}}
    if output.json:
        print(json.dumps({"folder": str(folder), "fail_if": failures, **summary}), flush=True)
    elif not output.quiet:
        print_run(terminal(), folder, run, summary, records, **shown)
        for path in written:
            print(path)
    for failure in failures:
        print(f"failed: {one_line(failure)}", file=sys.stderr)
    if not output.json:
        print(folder, flush=True)
    return kind.exit_status(summary) or (EXIT_GATE if failures else 0)


def timeline_of(folder: Path, run: dict[str, Any]) -> dict[str, str]:
    """Where the timeline of a run that has just ended is; what goes wrong with it is a line, and no reason to lose a run."""
    try:
        return {"timeline": export_timeline(folder, run)}
    except UserError as error:
        print(f"warning: no timeline: {error.cause}; {error.fix}, then bmp export {folder} --perfetto", file=sys.stderr)
        return {}


def print_run(
    console: Console,
    folder: Path,
    run: dict[str, Any],
    summary: dict[str, Any],
    records: RunRecords[Any] | None = None,
    *,
    verbose: bool = False,
    files: Mapping[str, str] = {},
) -> None:
    """Sections as the suite picks them for a terminal (`RunKind.terminal`), then the same last lines for every suite: warnings, verdict,
    answers, `files` by name, the page, the next command to try. `records` are those that the summary was made of."""
    kind = run_kind(str(run.get("kind")))
    view = RunView(folder=folder, run=run, suite=kind)
    facts = [f"{name} {one_line(text)}" for name, text in facts_of(view) if name in FACTS]
    console.print()
    print_text(console, " · ".join(facts), title=one_line(view.label), style="dim")
    console.print()
    sections = kind.terminal(run, summary, records or RunRecords(folder, kind.record))
    print_sections(console, [section for section in sections if verbose or isinstance(section, Plot) or not section.detail])
    for text in summary.get("warnings", []):
        print_text(console, one_line(str(text)), style="warning")
    verdict = str(summary.get("verdict", "no verdict"))
    print_text(console, verdict.upper(), style=f"bold {COLOURS.get(verdict, '')}")
    for text in summary.get("reasons", []):
        print_text(console, f"  because {one_line(str(text))}")
    if line := answers(kind.figures(run, summary, RunRecords(folder, kind.record, samples=False))):
        print_text(console, line, style="bold")
    page = folder / "report.html"
    for name, path in {**files, **({"report": str(page)} if page.exists() else {})}.items():
        print_text(console, path, title=name, style="code")
    if advice := kind.next_command(run, summary, folder):
        command, why = advice
        print_text(console, f"{one_line(command)}   # {why}", title="next", style="code")


def answers(figures: Sequence[Figure]) -> str:
    """The headlines that were measured, in a line."""
    return " · ".join(_answer(name, figure) for name, figure in named_headlines(figures) if figure.value is not None)


def _answer(name: str, figure: Figure) -> str:
    bounds = interval(figure.low, figure.high)
    return one_line(f"{name} {number(figure.value)} {unit(figure.unit)}".strip() + (f" ({bounds})" if bounds else ""))
