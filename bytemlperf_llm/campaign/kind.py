"""The kind `campaign`: what the runs of a campaign say together. A pure function of its records."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import convert, to_builtins
from msgspec.structs import replace

from bytemlperf.compare.comparison import Comparison, Side
from bytemlperf.compare.show import METHOD, figure_table, sentence, value_text
from bytemlperf.errors import UserError
from bytemlperf.report.blocks import Cell as Value
from bytemlperf.report.blocks import table
from bytemlperf.report.gather import view_run
from bytemlperf.report.text import unit
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure, Plot, RunKind, Section, Text, few
from bytemlperf.runs.records import RunRecords, once
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.campaign.cells import Cell, beside_each_other, cells_of, gate_failures, point_of, unlike
from bytemlperf_llm.campaign.records import CAPACITY_LOAD, JobRecord, last_of_each
from bytemlperf_llm.sweep.curve import LEAST_POINTS, curves_of
from bytemlperf_llm.sweep.row import PointRow, readings
from bytemlperf_llm.sweep.sections import curve_sections

KIND_NAME = "campaign"
SHOWN = {
    "ttft p50": "TTFT p50, ms",
    "ttft p90": "TTFT p90, ms",
    "ttft p99": "TTFT p99, ms",
    "tpot p50": "TPOT p50, ms",
    "e2e p50": "E2E p50, ms",
    "output_token_throughput": "tokens/s",
    "goodput share": "within SLO, %",
}
"""Figures of the table, and what they are called there; the others are in the page's list. Of TTFT's tails the highest that all carry."""
TAILS = ("ttft p99", "ttft p90")
SPARE = ("runs", "E2E p50, ms", "within SLO, %", "TTFT p90, ms", "TTFT p99, ms", "TPOT p50, ms")
RATE = " requests/s"
HEADLINES = ("ttft p50", "output_token_throughput")
EXIT_PARTIAL = 1
DISTRUSTED = ("invalid", "failing")


class CampaignKind(RunKind):
    """Engines under the same loads."""

    name = "LLM serving campaign"
    record = JobRecord
    valid_means = "Every run was measured."
    stopped_means = "the rest was not measured; go on with --resume"

    def summarise(self, run: dict[str, Any], records: Iterable[JobRecord]) -> dict[str, Any]:
        """Verdict, counts of runs, and a row a cell; `gate` are the conditions and what failed of them."""
        cells = _cells(run, records)
        config = part(run, "config")
        conditions = [str(text) for text in config.get("fail_if", [])]
        gate = gate_failures(beside_each_other(cells, Path(), KIND_NAME), conditions) if cells else []
        lost = [
            f"{engine}: {len(records)} run{'s' * (len(records) > 1)} failed: {reason}" for (engine, reason), records in _lost(cells).items()
        ]
        distrusted = [_such_as(cells, verdict) for verdict in DISTRUSTED if any(record.verdict == verdict for record in _measured(cells))]
        missing = sum(cell.planned - len(cell.records) for cell in cells)
        other_load = unlike(cells)
        strict = part(config, "campaign").get("same_schedule", True)
        reasons = [*few(gate), *(other_load if strict else []), *few(lost), *distrusted]
        reasons += [f"{missing} of {sum(cell.planned for cell in cells)} runs have not been done"] if missing else []
        invalid = gate or (other_load and strict) or not _measured(cells)
        return {
            "verdict": "invalid" if invalid else "partial" if reasons else "valid",
            "reasons": reasons,
            "warnings": [] if strict else other_load,
            "counts": {"ok": len(_measured(cells)), "failed": sum(map(len, _lost(cells).values())), "not run": missing},
            "metrics": {},
            "gate": {"conditions": conditions, "failures": gate},
            "rows": [_row(cell) for cell in cells],
        }

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[JobRecord]) -> list[Figure]:  # noqa: ARG002
        """Each cell's."""
        return [
            replace(figure, key=cell.name, label=f"{cell.name} {figure.label}", headline=figure.metric in HEADLINES)
            for cell in _cells(run, records)
            for figure in cell.figures
        ]

    def case_of(self, figure: Figure) -> tuple[str, str]:
        """The engine, and its scenario and load."""
        engine, _, case = figure.key.partition(" · ")
        return engine, case

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[JobRecord]) -> list[Section]:
        """The table, what failed, engines beside each other, every run."""
        cells = _cells(run, records)
        if not cells:
            return []
        comparison = beside_each_other(cells, Path(), KIND_NAME)
        return [
            *_overview(cells),
            *_failed(cells),
            *_gate(part(summary, "gate")),
            *_curves([(cell.scenario, point) for cell in cells if (point := point_of(cell)) is not None]),
            *_differences(comparison),
            *_runs(cells),
        ]

    def beside(self, names: Sequence[str], summaries: Sequence[dict[str, Any]]) -> list[Section]:
        """All curves of all campaigns."""
        rows = [(name, row) for name, summary in zip(names, summaries, strict=True) for row in summary.get("rows", []) if row["point"]]
        points = [(row["scenario"], name, convert(row["point"], PointRow)) for name, row in rows]
        return _curves([(scenario, replace(point, curve=f"{name} {point.curve}")) for scenario, name, point in points])

    def verify(self, run: dict[str, Any], records: Iterable[JobRecord]) -> Iterator[str]:
        """Every run's own folder, and its record against it."""
        yield from super().verify(run, records)
        if not isinstance(records, RunRecords):
            return
        for record in last_of_each(records).values():
            if not record.run:
                continue
            folder = records.folder / Path(record.run).name
            try:
                yield from (f"{record.run}: {text}" for text in verify_suite(folder).findings)
                if readings(record.figures) != readings(view_run(folder, sections=False).figures):
                    yield f"{record.run}: its figures are not those of the campaign's record"
            except UserError as error:
                yield error.cause

    def next_command(self, run: dict[str, Any], summary: dict[str, Any], folder: Path) -> tuple[str, str] | None:
        """What has no run yet, or failed."""
        counts, command = part(summary, "counts"), [str(word) for word in run.get("command", [])]
        if not counts.get("failed") and not counts.get("not run"):
            return None
        again = command if "--resume" in command else [*command, "--resume", str(folder)]
        return shlex.join(again), "run what has no run yet, and what failed"

    def exit_status(self, summary: dict[str, Any]) -> int:
        """1 unless every run was measured and no condition was met."""
        return 0 if summary.get("verdict") == "valid" else EXIT_PARTIAL


KIND = CampaignKind()


def _cells(run: dict[str, Any], records: Iterable[JobRecord]) -> list[Cell]:
    return once(records, cells_of, run)


def _measured(cells: list[Cell]) -> list[JobRecord]:
    return [record for cell in cells for record in cell.measured]


def _such_as(cells: list[Cell], verdict: str) -> str:
    """How many runs have it, and the first of them."""
    those = [record for record in _measured(cells) if record.verdict == verdict]
    are = "is" if len(those) == 1 else "are"
    return f"{len(those)} of {len(_measured(cells))} runs {are} {verdict}, such as {those[0].name}: {'; '.join(those[0].reasons[:1])}"


def _row(cell: Cell) -> dict[str, Any]:
    """`point` is as a sweep has its points."""
    about = {"engine": cell.engine, "scenario": cell.scenario, "load": cell.load, "verdict": cell.verdict}
    return about | {"runs": len(cell.measured), "planned": cell.planned, "point": to_builtins(point_of(cell))}


# -- sections ------------------------------------------------------------------------------


def _overview(cells: list[Cell]) -> list[Section]:
    """One table a scenario: a row a load and engine; one for the capacities."""
    sections: list[Section] = []
    for scenario in dict.fromkeys(cell.scenario for cell in cells):
        under = [cell for cell in cells if cell.scenario == scenario]
        sections += _table(scenario, [cell for cell in under if cell.load != CAPACITY_LOAD])
        sections += _capacities(f"{scenario}: capacity", [cell for cell in under if cell.load == CAPACITY_LOAD])
    return sections


def _capacities(title: str, cells: list[Cell]) -> list[Section]:
    """What holds, from the load that holds to the one that fails; what it costs, where that is known."""
    known = {figure.metric: f"{figure.label}, {unit(figure.unit)}" for cell in cells for figure in cell.figures}
    rows = [
        {"engine": cell.engine, "runs": f"{len(cell.measured)} of {cell.planned}"}
        | {head: value_text(Side(figure=cell.figure(metric))) for metric, head in known.items()}
        | {"verdict": cell.verdict}
        for cell in cells
    ]
    note = "The load that holds; below it, from what holds to what fails, or Student's interval over the repeats."
    return table(title, rows, note=note)


def _table(scenario: str, cells: list[Cell]) -> list[Section]:
    tables = [{figure.metric: figure for figure in cell.figures if figure.value is not None} for cell in cells]
    measured = [known for known in tables if known]
    tail = next((metric for metric in TAILS if all(metric in known for known in measured)), None)
    shown = {metric: head for metric, head in SHOWN.items() if metric not in TAILS or metric == tail}
    rates = all(cell.load.endswith(RATE) for cell in cells)
    rows = [
        {RATE.strip() if rates else "load": cell.load.removesuffix(RATE) if rates else cell.load, "engine": cell.engine}
        | {"runs": f"{len(cell.measured)} of {cell.planned}"}
        | {head: value_text(Side(figure=known[metric])) if metric in known else None for metric, head in shown.items()}
        | {"verdict": cell.verdict}
        for cell, known in zip(cells, tables, strict=True)
    ]
    several = max((cell.planned for cell in cells), default=0) > 1
    note = "Means over the repeats, with Student's 95 % interval over them." if several else "95 % intervals below."
    return table(scenario, rows, note=note, spare=SPARE)


def _lost(cells: list[Cell]) -> dict[tuple[str, str], list[JobRecord]]:
    """Runs that failed, by engine and reason."""
    lost: dict[tuple[str, str], list[JobRecord]] = {}
    for cell in cells:
        for record in cell.records:
            if record.status == "failed":
                lost.setdefault((record.engine, record.reason), []).append(record)
    return lost


def _failed(cells: list[Cell]) -> list[Section]:
    rows: list[dict[str, Value]] = [
        {"engine": engine, "runs": len(records), "first": f"{records[0].scenario} · {records[0].load}", "reason": reason}
        for (engine, reason), records in _lost(cells).items()
    ]
    return table("Failed", rows)


def _named(record: JobRecord) -> dict[str, Value]:
    return {"engine": record.engine, "scenario": record.scenario, "load": record.load, "repeat": record.repeat}


def _gate(gate: dict[str, Any]) -> list[Section]:
    conditions, failed = gate.get("conditions") or [], gate.get("failures") or []
    if not conditions:
        return []
    return [Text(title="Gate", body=f"{'failed' if failed else 'passed'}: {', '.join(map(str, conditions))}")]


def _curves(points: Sequence[tuple[str, PointRow]]) -> list[Section]:
    """Every engine's curve over the others', and where each bends: one group of plots a scenario."""
    sections: list[Section] = []
    for scenario in dict.fromkeys(scenario for scenario, _ in points):
        drawn = curves_of(point for other, point in points if other == scenario)
        bent = any(len(curve.carried) >= LEAST_POINTS for curve in drawn)
        shown = (Plot, Text) if bent else Plot
        sections += [replace(section, group=f"{scenario}: curves") for section in curve_sections(drawn) if isinstance(section, shown)]
    return sections


def _differences(comparison: Comparison) -> list[Section]:
    """Against the first engine; one table, folded."""
    if len(comparison.names) < 2:
        return []
    rows = [row for row in comparison.rows if row.metric in SHOWN or row.key.endswith(CAPACITY_LOAD)]
    sentences = "\n".join(f"{sentence(comparison, place)}." for place in range(1, len(comparison.names)))
    group = "Differences"
    return [
        Text(body=sentences, group=group),
        figure_table(comparison, rows, f"Against {comparison.names[0]}", folded=True, group=group),
        Text(body=METHOD, style="note", group=group, folded=True),
    ]


def _runs(cells: list[Cell]) -> list[Section]:
    rows = [
        _named(record)
        | {"seed": record.seed, "verdict": record.verdict or record.status, "took, s": record.wall_s}
        | {"run folder": record.run, "schedule": record.schedule_sha256[:12], "why": "; ".join(record.reasons) or record.reason or None}
        for cell in cells
        for record in cell.records
    ]
    return table(f"All {len(rows)} runs", rows, folded=True, group="Runs")
