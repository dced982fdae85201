"""The kind `campaign`: what the runs of a campaign say together. A pure function of its records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import convert, to_builtins
from msgspec.structs import replace

from bytemlperf.export.timeline import Slice, Story, placed
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure, RunKind, Section, few, resume_command
from bytemlperf.runs.records import RunRecords, once
from bytemlperf.runs.verdicts import VerdictName, worst
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.campaign.cells import Cell, beside_each_other, cells_of, gate_failures, lost_runs, point_of, unlike
from bytemlperf_llm.campaign.records import JobRecord, last_of_each
from bytemlperf_llm.campaign.sections import campaign_sections, curve_plots
from bytemlperf_llm.sweep.row import PointRow, readings, run_findings

KIND_NAME = "campaign"
HEADLINES = ("ttft p50", "output_token_throughput")
EXIT_PARTIAL = 1
DISTRUSTED: tuple[VerdictName, ...] = ("invalid", "failing")
IMPRECISE: tuple[VerdictName, ...] = ("client-limited", "thin")


class CampaignKind(RunKind):
    name = "LLM serving campaign"
    record = JobRecord
    valid_means = "Every run was measured."
    stopped_means = "the rest was not measured; resume it with --resume"
    of_runs = ranks_runs = True

    def story(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[JobRecord]) -> Story:  # noqa: ARG002
        """A slice a run, on its engine's track."""
        return placed(run, ((_slice(record), record.ended_unix_ns) for record in records))

    def summarise(self, run: dict[str, Any], records: Iterable[JobRecord]) -> dict[str, Any]:
        """Verdict, counts of runs, and a row a cell; `gate` are the conditions and what failed of them."""
        cells = _cells(run, records)
        config = part(run, "config")
        conditions = [str(text) for text in config.get("fail_if", [])]
        gate = gate_failures(beside_each_other(cells, Path(), KIND_NAME), conditions) if cells else []
        lost = lost_runs(cells)
        said = [f"{engine}: {len(those)} run{'s' * (len(those) > 1)} failed: {reason}" for (engine, reason), those in lost.items()]
        such = {verdict: _such_as(cells, verdict) for verdict in (*DISTRUSTED, *IMPRECISE)}
        distrusted = [text for verdict in DISTRUSTED for text in such[verdict]]
        missing = sum(cell.planned - len(cell.records) for cell in cells)
        other_load = unlike(cells)
        strict = part(config, "campaign").get("same_schedule", True)
        reasons = [*(other_load if strict else []), *few(said), *distrusted]
        reasons += [f"{missing} of {sum(cell.planned for cell in cells)} runs have not been done"] if missing else []
        invalid = (other_load and strict) or not _measured(cells)
        verdicts: dict[VerdictName, object] = {"invalid": invalid, "partial": reasons, **{verdict: such[verdict] for verdict in IMPRECISE}}
        return {
            "verdict": worst(verdicts),
            "reasons": [*reasons, *(text for verdict in IMPRECISE for text in such[verdict])],
            "warnings": [] if strict else other_load,
            "counts": {"ok": len(_measured(cells)), "failed": sum(map(len, lost.values())), "not run": missing},
            "metrics": {},
            "gate": {"conditions": conditions, "failures": few(gate)},
            "rows": [_row(cell) for cell in cells],
        }

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[JobRecord]) -> list[Figure]:  # noqa: ARG002
        return [
            replace(figure, key=cell.name, label=f"{cell.name} {figure.label}", headline=figure.metric in HEADLINES)
            for cell in _cells(run, records)
            for figure in cell.figures
        ]

    def case_of(self, figure: Figure) -> tuple[str, str]:
        engine, _, case = figure.key.partition(" · ")
        return engine, case

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[JobRecord]) -> list[Section]:
        """The table, what failed, the gate, the curves, engines beside each other, every run."""
        cells = _cells(run, records)
        return campaign_sections(cells, beside_each_other(cells, Path(), KIND_NAME), part(summary, "gate")) if cells else []

    def load_sentence(self, run: dict[str, Any]) -> str:
        return str(part(run, "config", "campaign").get("description") or "")

    def beside(self, names: Sequence[str], summaries: Sequence[dict[str, Any]]) -> list[Section]:
        rows = [(name, row) for name, summary in zip(names, summaries, strict=True) for row in summary.get("rows", []) if row["point"]]
        points = [(row["scenario"], name, convert(row["point"], PointRow)) for name, row in rows]
        return curve_plots([(scenario, replace(point, curve=f"{name} {point.curve}")) for scenario, name, point in points])

    def verify(self, run: dict[str, Any], records: Iterable[JobRecord]) -> Iterator[str]:
        yield from super().verify(run, records)
        if isinstance(records, RunRecords):
            kept = {Path(record.run).name: readings(record.figures) for record in last_of_each(records).values() if record.run}
            yield from run_findings(records.folder, kept)

    def next_command(self, run: dict[str, Any], summary: dict[str, Any], folder: Path) -> tuple[str, str] | None:
        """What has no run yet, or failed."""
        counts = part(summary, "counts")
        if not counts.get("failed") and not counts.get("not run"):
            return None
        return resume_command(run, folder), "run what has no run yet, and what failed"

    def exit_status(self, summary: dict[str, Any]) -> int:
        """1 unless every run was measured and no condition was met."""
        return 0 if summary.get("verdict") not in ("partial", "invalid") and not part(summary, "gate").get("failures") else EXIT_PARTIAL


KIND = CampaignKind()


def _cells(run: dict[str, Any], records: Iterable[JobRecord]) -> list[Cell]:
    return once(records, cells_of, run)


def _measured(cells: list[Cell]) -> list[JobRecord]:
    return [record for cell in cells for record in cell.measured]


def _slice(record: JobRecord) -> Slice:
    return Slice(
        noun="run",
        track=("engines", record.engine),
        name=record.name,
        start_ns=0,
        end_ns=round(record.wall_s * NS_PER_S),
        facts={"verdict": record.verdict, "run": record.run},
        failed=record.reason or record.status if record.status == "failed" else "",
    )


def _such_as(cells: list[Cell], verdict: str) -> list[str]:
    """How many runs have it, and the first of them; nothing where none has."""
    those = [record for record in _measured(cells) if record.verdict == verdict]
    if not those:
        return []
    are = "is" if len(those) == 1 else "are"
    return [f"{len(those)} of {len(_measured(cells))} runs {are} {verdict}, such as {those[0].name}: {'; '.join(those[0].reasons[:1])}"]


def _row(cell: Cell) -> dict[str, Any]:
    """`point` is as a sweep has its points."""
    about = {"engine": cell.engine, "scenario": cell.scenario, "load": cell.load, "verdict": cell.verdict}
    return about | {"runs": len(cell.measured), "planned": cell.planned, "point": to_builtins(point_of(cell))}
