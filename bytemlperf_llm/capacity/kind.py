"""The kind `capacity`: what the folder of a search tells. Its records are the probes, each with a run folder of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.report.blocks import axes, bounded_line
from bytemlperf.report.text import number
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure, Plot, RunKind, Section, Table, Text
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.verdicts import EXIT_INVALID
from bytemlperf.statistics.statistics import wilson
from bytemlperf_llm.capacity.judge import Outcome
from bytemlperf_llm.capacity.result import (
    STOPPED,
    UNITS,
    Capacity,
    ProbeRow,
    Question,
    capacity_of,
    question_of,
    stopped_because,
)
from bytemlperf_llm.points.flags import requests_text
from bytemlperf_llm.sweep.row import run_findings

LINES = ((Outcome.HOLDS, "@2"), (Outcome.FAILS, "@3"), (Outcome.UNRESOLVED, "@7"))


class CapacityKind(RunKind):
    name = "capacity"
    record = ProbeRow
    valid_means = "A load holds, shown by a probe of its own."
    stopped_means = "resume the search with --resume"
    of_runs = True

    def summarise(self, run: dict[str, Any], records: Iterable[ProbeRow]) -> dict[str, Any]:
        """The answer with a verdict: client-limited where the client was the limit, invalid where no load holds, partial where the search
        ended before both ends were as near as requested, else valid."""
        question = question_of(run)
        found = capacity_of(question, list(records), stopped_because(run))
        limited = found.stopped_because == "client"
        narrow = found.stopped_because == "within" and found.fails_at is not None
        verdict = "client-limited" if limited else "invalid" if found.holds_at is None else "valid" if narrow else "partial"
        reasons = [] if verdict == "valid" else [sentence(found, question, why=True)]
        answer: dict[str, Any] = msgspec.to_builtins(found)
        return {"verdict": verdict, "reasons": reasons, "warnings": [], **answer}

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[ProbeRow]) -> list[Figure]:  # noqa: ARG002
        """The capacity, from what holds to what fails; what a million output tokens cost there."""
        question, found = question_of(run), msgspec.convert(summary, Capacity)
        flags = part(run, "config", "flags")
        key = str(flags.get("scenario") or "llm")
        load = ", ".join(filter(None, (f"{question.goal.share * 100:.4g} % within {question.levels} ms", requests_text(flags))))
        unit = UNITS[question.by]
        low, high = found.holds_at, found.fails_at
        figures = [
            Figure(
                key=key,
                metric="capacity",
                label="capacity",
                load=load,
                unit=unit,
                value=low,
                low=low if high is not None else None,
                high=high if low is not None else None,
                better="higher",
                headline=True,
                offered=high is None,
                reason="" if low is not None else sentence(found, question),
            )
        ]
        cost = found.cost
        if cost is not None:
            amounts = ((cost.currency, cost.price_per_million_output_tokens), ("J", cost.joules_per_million_output_tokens))
            for name, value in amounts:
                metric = f"{name} per million output tokens"
                more = {"label": metric, "better": "lower", "headline": True, "load": load}
                figures += [] if value is None else [Figure(key=key, metric=metric, unit=name, value=value, **more)]  # type: ignore[arg-type]
        return figures

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[ProbeRow]) -> list[Section]:  # noqa: ARG002
        return list(_sections(question_of(run), msgspec.convert(summary, Capacity)))

    def exit_status(self, summary: dict[str, Any]) -> int:
        """1 where no load holds, whatever the reason."""
        return EXIT_INVALID if msgspec.convert(summary, Capacity).holds_at is None else 0

    def load_sentence(self, run: dict[str, Any]) -> str:
        question = question_of(run)
        return f"{question.goal.share:.4g} of {question.judged} within {question.levels} ms"

    def verify(self, run: dict[str, Any], records: Iterable[ProbeRow]) -> Iterator[str]:
        question_of(run)
        if isinstance(records, RunRecords):
            yield from run_findings(records.folder, {Path(row.folder).name: None for row in records})


KIND = CapacityKind()


def sentence(found: Capacity, question: Question, *, why: bool = False) -> str:
    """The answer, for a person; `why` it is no narrower."""
    if why:
        text, because = sentence(found, question), STOPPED.get(found.stopped_because, found.stopped_because)
        return text if because in text else f"{text}; {because}"
    low, high, unit = found.holds_at, found.fails_at, UNITS[question.by]
    what = f"{found.share:.4g} of {question.judged} within {question.levels} ms at {found.confidence:.4g} confidence"
    if low is not None and high is not None:
        return f"holds {low:.4g} {unit}, fails {high:.4g} ({what}; binding: {found.binding})"
    if low is not None:
        return f"at least {low:.4g} {unit}{': your client is the limit' if found.stopped_because == 'client' else ''} ({what})"
    return f"fails {high:.4g} {unit}, and nothing lower was resolved as holding ({what})" if high else f"nothing was resolved ({what})"


def _sections(question: Question, found: Capacity) -> Iterator[Section]:
    yield Text(body=sentence(found, question, why=True), title="Capacity")
    judged = [row for row in found.probes if row.judged]
    if judged:
        yield _plot(question, found, judged)
    yield _table(question, found)
    if limited := [row.client_limited for row in found.probes if row.client_limited]:
        yield Text(body=limited[-1], title="Why the client was the limit", style="warning")
    if found.margins and found.holds_at is not None:
        body = ", ".join(f"{name} {margin:+.2%}" for name, margin in found.margins.items())
        title = f"Margins at {question.load_text(found.holds_at)}"
        yield Text(body=f"{body} of {question.judged} above the target share", title=title)
    if found.cost is not None and found.holds_at is not None:
        yield found.cost.table(question.load_text(found.holds_at))
    if found.confirmed is not None:
        row = found.confirmed
        body = f"{1 - row.missed:.2%} of {row.judged} {question.judged} met every level at {question.load_text(row.load)}"
        yield Text(body=body, title="Confirming run")


def _table(question: Question, found: Capacity) -> Table:
    names = list(question.slo_ms)
    columns = [UNITS[question.by], "outcome", question.judged, "worth", "met all", *(f"met {name}" for name in names), "note", "folder"]
    spare = ("folder", "worth", *(f"met {name}" for name in names))
    rows = [_cells(row, names) for row in sorted(found.probes, key=lambda row: row.load)]
    return Table(title="Probes", columns=columns, rows=rows, spare=spare)


def _cells(row: ProbeRow, names: list[str]) -> list[str | float | int | None]:
    met = [f"{row.met[name]:.2%}" if name in row.met else None for name in names]
    share = f"{1 - row.missed:.2%}" if row.judged else None
    return [row.load, str(row.outcome), row.requests, round(row.worth) if row.judged else None, share, *met, row.note or None, row.folder]


def _plot(question: Question, found: Capacity, rows: list[ProbeRow]) -> Plot:
    """Shares over the load, with the interval of each; shaded from what holds to what fails."""
    unit, share = UNITS[question.by], question.goal.share * 100
    data = []
    for outcome, colour in LINES:
        chosen = sorted((row for row in rows if row.outcome is outcome), key=lambda row: row.load)
        if chosen:
            bounds = [tuple(100 * side for side in wilson(1 - row.missed, row.worth)) for row in chosen]
            shares = [100 * (1 - row.missed) for row in chosen]
            hover = f"%{{x:.4~g}} {unit}: %{{y:.2f}} % met every level"
            data.append(bounded_line(str(outcome), [row.load for row in chosen], shares, bounds, hover, color=colour) | {"mode": "markers"})
    shapes: list[dict[str, Any]] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": share, "y1": share, "line": {"color": "@1", "width": 1, "dash": "dot"}}
    ]
    low, high = found.holds_at, found.fails_at
    if low is not None and high is not None:
        band = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": low, "x1": high, "fillcolor": "@0/.12", "line": {"width": 0}}
        shapes.append(band | {"layer": "below"})
    layout = axes(unit, f"% of {question.judged} that met every level") | {"shapes": shapes}
    layout["yaxis"]["range"] = [min(share - 20, 100 * min(1 - row.missed for row in rows) - 3), 101]
    layout["yaxis"].pop("rangemode")
    note = f"Dotted: the target share, {number(share)} %. Bars: 95 % interval by what the probe's {question.judged} are worth (Wilson)."
    note += " Shaded: the answer." if len(shapes) > 1 else ""
    return Plot(
        title=f"Share of {question.judged} within the service levels", data=data, layout=layout, note=note, alt=sentence(found, question)
    )
