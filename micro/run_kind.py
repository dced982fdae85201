"""What a run folder of kind "micro" tells: summary, comparable figures, the page's part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from bytemlperf_llm.runs.kinds import Figure, Section, Table
from micro.table import COLUMNS, cells
from micro.timing import Latency, Timed, latency_of

STATUSES = ("ok", "failed", "refused", "skipped")
MAX_WARNINGS = 20


def last_rows(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a case, in the order first seen: the last one counts, since a resumed sweep repeats what was skipped."""
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        rows[str(record["key"])] = record
    return list(rows.values())


class MicroKind:
    """Summary, figures and sections of micro runs."""

    def summarise(self, run: dict[str, Any], records: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Counts by status, and per measured case its latency from the raw samples."""
        rows = last_rows(records)
        counts = Counter(str(row["status"]) for row in rows)
        asked = len(run["config"]["cases"])
        ok = [row for row in rows if row["status"] == "ok"]
        failed = [f"{row['key']}: {row['reason']}" for row in rows if row["status"] == "failed"]
        noisy = [f"{row['key']}: {row['noise']}" for row in ok if row["noise"] != "steady"]
        return {
            "verdict": "valid" if ok else "invalid",
            "reasons": [] if ok else ["no case was measured"],
            "warnings": [*_few("failed", failed), *_few("not steady", noisy)],
            "counts": {**{status: counts[status] for status in STATUSES}, "missing": max(0, asked - len(rows))},
            "metrics": {f"{row['key']} latency": _metric(_latency(row)) for row in ok},
        }

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[dict[str, Any]]) -> list[Figure]:  # noqa: ARG002
        """Latency, FLOP rate and memory bandwidth of every case; a case that wasn't measured says why."""
        return [figure for row in last_rows(records) for figure in _figures(row)]

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[dict[str, Any]]) -> list[Section]:  # noqa: ARG002
        """A table of all rows."""
        note = "Latency is of one call; p50 with its 95 % interval from order statistics. GB/s and TFLOP/s are at p50."
        return [Table(title="Operators", columns=COLUMNS, rows=[cells(row) for row in last_rows(records)], note=note)]


KIND = MicroKind()


def _latency(row: dict[str, Any]) -> Latency:
    return latency_of(msgspec.convert(row["timed"], Timed))


def _metric(latency: Latency) -> dict[str, Any]:
    interval = None if latency.ci95_low is None else [latency.ci95_low, latency.ci95_high]
    return {
        "unit": "us",
        "count": latency.n,
        "mean": latency.mean,
        "min": latency.min,
        "max": latency.max,
        "percentiles": {"10": latency.p10, "50": latency.p50, "90": latency.p90, "99": latency.p99},
        "ci95": {"50": interval},
    }


def _figures(row: dict[str, Any]) -> list[Figure]:
    key = str(row["key"])
    if row["status"] != "ok":
        return [Figure(key=key, metric="latency", unit="us", value=None, better="lower", reason=f"{row['status']}: {row['reason']}")]
    latency, timed = _latency(row), row["timed"]
    per_us = timed["calls"] * 1000
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
            samples=tuple(sample / per_us for sample in timed["samples_ns"]),
            statistic="p50",
            headline=True,
        )
    ]
    for metric, unit, name in (("FLOP rate", "TFLOP/s", "tflops"), ("memory bandwidth", "GB/s", "mem_bw_gbs")):
        if row.get(name) is not None:
            figures.append(Figure(key=key, metric=metric, unit=unit, value=row[name], better="higher", count=latency.n))
    return figures


def _few(what: str, sentences: list[str]) -> list[str]:
    listed = [f"{what}: {sentence}" for sentence in sentences[:MAX_WARNINGS]]
    return [*listed, *([f"{what}: {len(sentences) - MAX_WARNINGS} more"] if len(sentences) > MAX_WARNINGS else [])]
