"""One point: the record of a sweep, made of its run's own summary and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import convert

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.hardware.measured import stated
from bytemlperf.report.gather import view_run
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Better, Figure
from bytemlperf.runs.suite import verify_suite
from bytemlperf.runs.verdicts import SOUND
from bytemlperf_llm.kind import KIND
from bytemlperf_llm.sweep.axes import AUTO_LEVEL, Level

State = Literal["measured", "interrupted", "skipped"]
FolderName = Annotated[str, msgspec.Meta(pattern=r"^(?!\.{1,2}$)[^/\\]*$")]
"""Never a way out of the sweep's folder, which may be a stranger's."""
LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
THROUGHPUT, TOKENS = "request_throughput", "output_token_throughput"
ON_CURVE = (*SOUND, "overloaded")
"""Verdicts of runs whose figures are the server's."""
CLIENT = ("client-limited", "invalid")


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A figure with its 95 % interval, on `count` samples."""

    value: float
    unit: str
    better: Better
    label: str
    low: float | None = None
    high: float | None = None
    count: int | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The value itself on each side that has none."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


class PointRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`figures` are those of its run, by metric ("ttft p50", "request_throughput"), without those that its sample can't carry; `why` is
    the verdict's first reason, or why it was skipped; `folder` its run folder inside the sweep's; `devices` how many its server was said
    to have; `ceiling_rps` what its curve's range of rates was made from, where it was found."""

    curve: str
    load: Level
    state: State
    why: str = ""
    folder: FolderName = ""
    verdict: str = ""
    devices: int | None = None
    ceiling_rps: float | None = None
    figures: dict[str, Reading] = {}

    @property
    def on_curve(self) -> bool:
        """Whether its figures are the server's, overloaded or not."""
        return self.state == "measured" and self.verdict in ON_CURVE

    @property
    def carried(self) -> bool:
        """Whether its load was carried, and its latency is that of a steady state."""
        return self.state == "measured" and self.verdict in SOUND

    @property
    def of_client(self) -> bool:
        """Whether the client was the limit, so that its figures say little of the server."""
        return self.verdict in CLIENT

    @property
    def shown_verdict(self) -> str:
        return self.verdict if self.state == "measured" else self.state

    def percentiles(self, name: str) -> list[str]:
        """The metrics of a latency's percentiles that its sample carries, from low to high, such as "ttft p50"."""
        return sorted((metric for metric in self.figures if metric.startswith(f"{name} p")), key=percent_of)

    def tail(self, name: str) -> str | None:
        return next(reversed(self.percentiles(name)), None)


def percent_of(metric: str) -> float:
    """Of the metric of a percentile."""
    return float(metric.rpartition(" p")[2])


def row_of(curve: str, folder: str, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> PointRow:
    """From a run of kind llm, of this sweep or any other."""
    return PointRow(
        curve=curve,
        load=level_of(run),
        state="interrupted" if part(run, "end").get("stopped_by_user") else "measured",
        why=str(next(iter(summary.get("reasons", [])), "")),
        folder=folder,
        verdict=str(summary.get("verdict")),
        devices=devices_of(run),
        figures=readings(KIND.figures(run, summary, records)),
    )


def level_of(run: dict[str, Any]) -> Level:
    """The load of a run of kind llm; AUTO_LEVEL for one that has neither a rate nor a concurrency, such as a trace's."""
    arrival, sessions = part(run, "config", "scenario", "arrival"), part(run, "config", "scenario", "prompts").get("sessions")
    rate = arrival.get("rate")
    if arrival.get("process") == "closed":
        return Level(concurrency=arrival.get("max_concurrency"))
    return Level(rate_rps=float(rate), sessions=sessions is not None) if rate else AUTO_LEVEL


def devices_of(run: dict[str, Any]) -> int | None:
    """How many devices its server was said to have."""
    device = stated(run, cards.load()) if part(run, "config", "flags").get("device") else None
    return device.used if device else None


def readings(figures: Sequence[Figure]) -> dict[str, Reading]:
    """By metric; those without a value are left out."""
    return {figure.metric: convert(figure, Reading, from_attributes=True) for figure in figures if figure.value is not None}


def run_findings(folder: Path, runs: Mapping[str, dict[str, Reading] | None]) -> Iterator[str]:
    """What is wrong with each of these runs in the folder, by the names of theirs, and whose figures are not those that are kept of it."""
    for name, kept in runs.items():
        try:
            yield from (f"{name}: {text}" for text in verify_suite(folder / name).findings)
            if kept is not None and kept != readings(view_run(folder / name, sections=False).figures):
                yield f"{name}: its figures are not those of the record"
        except UserError as error:
            yield error.cause


def latest(rows: Iterable[PointRow]) -> list[PointRow]:
    """One row a point, in the order they were first written: a resumed sweep measures again what it skipped, and a range of rates that
    was left is one that goes on where any row of its curve follows."""
    kept: dict[tuple[str, Level], PointRow] = {}
    for row in rows:
        kept.pop((row.curve, AUTO_LEVEL), None)
        kept[row.curve, row.load] = row
    return list(kept.values())


def interactivity(row: PointRow) -> Reading | None:
    """Tokens/s that one user sees: 1/TPOT p50."""
    tpot = row.figures.get("tpot p50")
    if tpot is None or not tpot.value:
        return None
    low, high = (None if bound is None or not bound else 1000 / bound for bound in (tpot.high, tpot.low))
    return Reading(value=1000 / tpot.value, unit="tokens/s", better="higher", label="interactivity", low=low, high=high)


def of_device(row: PointRow) -> Reading | None:
    """Output tokens/s over the devices that the server was said to have; of the whole server where nothing was said."""
    tokens, devices = row.figures.get(TOKENS), row.devices or 1
    if tokens is None:
        return None
    low, high = (None if bound is None else bound / devices for bound in (tokens.low, tokens.high))
    return Reading(value=tokens.value / devices, unit="tokens/s", better="higher", label=tokens.label, low=low, high=high)
