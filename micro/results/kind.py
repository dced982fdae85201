"""What a run folder of kind "micro" tells: summary, comparable figures, the page's part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from bytemlperf.export.timeline import Slice, Story, placed
from bytemlperf.hardware.peaks import MEASURED
from bytemlperf.report.text import counted
from bytemlperf.runs.kinds import Figure, RunKind, Section, came_to_its_end, few
from bytemlperf.runs.records import once
from bytemlperf.runs.verdicts import VerdictName, sample_reasons, worst
from bytemlperf.units import NS_PER_S
from micro.cases.case import Case
from micro.measure.timing import Timed, latency_of, metric_of
from micro.results.sections import FRESH, conditions, sections, terminal_sections
from micro.roofline import above_peak
from micro.sweep.row import STATUSES, Row, Status, last_rows

MAX_NOISY = 5
MAX_HEADLINES = 8
RATES = (
    ("FLOP rate", "TFLOP/s", "tflops"),
    ("memory bandwidth", "GB/s", "mem_bw_gbs"),
    ("algorithm bandwidth", "GB/s", "alg_bw_gbs"),
    ("bus bandwidth", "GB/s", "bus_bw_gbs"),
)


class MicroKind(RunKind):
    """Summary, figures and sections of micro runs."""

    name = "Operators"
    record = Row

    def planned(self, run: dict[str, Any]) -> int | None:
        """A row for each case."""
        return len(run["config"]["cases"])

    def summarise(self, run: dict[str, Any], records: Iterable[Row]) -> dict[str, Any]:
        """Counts by status, and per measured case its latency from the raw samples."""
        rows = once(records, last_rows)
        counts = Counter(row.status for row in rows)
        planned = len(run["config"]["cases"])
        missing = max(0, planned - len(rows))
        reasons = [f"{missing} of {planned} cases have no row"] if missing else []
        ok = [row for row in rows if row.status == "ok"]
        failed = [f"{row.key}: {row.reason}" for row in rows if row.status == "failed"]
        noisy = [f"{row.key}: {row.noise}" for row in ok if row.noise != "steady"]
        # A case that is faster than the measured peak says that the peak is low, or that a cache answered.
        shares = [(row.key, share) for row in ok if (share := above_peak(row))]
        above = [f"{key}: {share:.0%} of it ({name}); {FRESH}" for key, (share, name) in shares]
        verdict, why = _verdict(ok, counts)
        return {
            "verdict": "invalid" if missing else verdict,
            "reasons": [*reasons, *why],
            "warnings": [
                *few(f"failed: {text}" for text in failed),
                *few((f"not steady: {text}" for text in noisy), MAX_NOISY),
                *few((f"above the measured peak: {text}" for text in above), 3),
            ],
            "counts": {**{status: counts[status] for status in STATUSES}, "missing": missing},
            "metrics": {f"{row.key} latency": msgspec.to_builtins(metric_of(_timed(row))) for row in ok},
            "conditions": conditions(run, ok),
        }

    def contradictions(self, run: dict[str, Any], records: Iterable[Row]) -> Iterator[str]:
        """Rows against the cases of run.json: each row is of one, and says so rightly; a sweep that ended has one for each."""
        left = {case.key for case in msgspec.convert(run["config"]["cases"], list[Case])}
        planned = set(left)
        for row in records:
            key = Case(op=row.op, provider=row.provider, args=row.args).key
            if row.key != key:
                yield f"a row of {key} calls itself {row.key}"
            if key not in planned:
                yield f"there is a row of {key}, which the plan doesn't have"
            left.discard(key)
        if came_to_its_end(run):
            yield from (f"there is no row of {key}" for key in sorted(left))

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Row]) -> list[Figure]:  # noqa: ARG002
        """Latency, rates and efficiency of every case; a case that wasn't measured says why."""
        rows = once(records, last_rows)
        headlines = _headlines(rows)
        return [figure for row in rows for figure in _figures(row, headline=row.key in headlines)]

    def case_of(self, figure: Figure) -> tuple[str, str]:
        """The provider; operator and arguments."""
        case, _, provider = figure.key.rpartition(" [")
        return provider.removesuffix("]"), case

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Row]) -> list[Section]:  # noqa: ARG002
        """Rooflines, heat maps, curves, and a table of all rows."""
        return sections(run, once(records, last_rows))

    def story(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Row]) -> Story:  # noqa: ARG002
        """A slice a row, on its operator's track."""
        return placed(run, ((_slice(row), row.ended_unix_ns) for row in records))

    def terminal(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Row]) -> list[Section]:  # noqa: ARG002
        """A table an operator, and the machine's condition."""
        return terminal_sections(summary, once(records, last_rows))


KIND = MicroKind()


def _verdict(ok: Sequence[Row], counts: Counter[Status]) -> tuple[VerdictName, list[str]]:
    """The worst that holds of the cases that have a row, and the reasons. A refusal is a row like any other."""
    if not ok:
        lost = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        return "invalid", [f"no case was measured{f': {lost}' if lost else ''}"]
    insufficient = [row.key for row in ok if row.noise.startswith("insufficient")]
    unsteady = [row.key for row in ok if row.noise != "steady" and row.key not in insufficient]
    reasons = sample_reasons("case", len(ok), insufficient, unsteady)
    lost_ways: tuple[Status, ...] = ("failed", "skipped")
    without = [f"{counts[status]} {status}" for status in lost_ways if counts[status]]
    if without:
        reasons["partial"] = f"{' and '.join(without)} of {counted(counts.total(), 'case')}"
    return worst(reasons), list(reasons.values())


def _timed(row: Row) -> Timed:
    """Raises ValueError for a measured case without samples."""
    if row.timed is None:
        raise ValueError(f"{row.key} has no samples")
    return row.timed


def _figures(row: Row, *, headline: bool) -> list[Figure]:
    key = row.key
    if row.status != "ok":
        return [Figure(key=key, metric="latency", unit="us", value=None, better="lower", reason=f"{row.status}: {row.reason}")]
    timed = _timed(row)
    latency, per_us = latency_of(timed), timed.calls * 1000
    figures = [
        Figure(
            key=key,
            metric="latency",
            unit="us",
            value=latency.p50,
            better="lower",
            low=latency.ci95_low,
            high=latency.ci95_high,
            count=latency.n,
            samples=tuple(sample / per_us for sample in timed.samples_ns),
            statistic="p50",
            headline=headline,
        )
    ]
    for metric, unit, name in RATES:
        rate = getattr(row, name)
        if rate is not None:
            low, high = latency.rate_bounds(rate) or (None, None)
            figures.append(Figure(key=key, metric=metric, unit=unit, value=rate, better="higher", low=low, high=high, count=latency.n))
    for name, share in (row.efficiency or {}).items():
        if name in (f"roof_{MEASURED}", f"cbu_{MEASURED}"):
            figures.append(Figure(key=key, metric="of the measured peak", unit="%", value=share * 100, better="higher", count=latency.n))
    return figures


def _slice(row: Row) -> Slice:
    median_us = row.latency_us.p50 if row.latency_us else None
    facts = {"status": row.status, "reason": row.reason, "median_us": median_us, "noise": row.noise}
    return Slice(
        noun="case",
        track=("cases", row.op),
        name=row.key,
        start_ns=0,
        end_ns=round((row.duration_s or 0) * NS_PER_S),
        facts={**facts, "TFLOP/s": row.tflops, "GB/s": row.mem_bw_gbs},
        failed=row.reason or row.status if row.status == "failed" else "",
    )


def _headlines(rows: Sequence[Row]) -> set[str]:
    """Keys of the cases that stand first: all of a few, else each operator's largest."""
    ok = [row for row in rows if row.status == "ok"]
    if len(ok) <= MAX_HEADLINES:
        return {row.key for row in ok}
    largest: dict[str, Row] = {}
    for row in ok:
        held = largest.get(row.op)
        if held is None or (row.bytes or 0) > (held.bytes or 0):
            largest[row.op] = row
    return {row.key for row in largest.values()}
