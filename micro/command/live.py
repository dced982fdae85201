"""A sweep while it runs: metrics for Prometheus, and what a person at the terminal sees.

Families are in base units; the one label, `operator` or `status`, has a closed list of values. A gauge
of an operator that was not measured yet is NaN, never 0.
"""

from __future__ import annotations

import math
from collections import Counter

from bytemlperf.command.live import LiveView
from bytemlperf.export.prometheus import Exporter, Family
from bytemlperf.hardware.peaks import Peaks, Roof
from bytemlperf.report.text import number
from micro.cases.case import Case
from micro.registry import OPERATORS
from micro.sweep.row import STATUSES, Row

_LATENCY_S = tuple(base * 10.0**power for power in range(-6, 2) for base in (1, 2, 5))
_BY_OPERATOR = {
    "bmp_micro_operator_latency_seconds": "Median latency of the operator's last case.",
    "bmp_micro_operator_flops_per_second": "FLOP/s of the operator's last case, at its median.",
    "bmp_micro_operator_memory_bytes_per_second": "Bytes read and written a second in the operator's last case.",
    "bmp_micro_operator_bus_bytes_per_second": "Bus bandwidth of the collective's last case.",
    "bmp_micro_operator_efficiency_ratio": "Share of what the measured peaks allow, in the operator's last case.",
}


def families() -> tuple[Family, ...]:
    """All of them; operators are labels, so the table of operators closes the list."""
    operators = tuple(OPERATORS)
    return (
        Family("bmp_micro_cases_total", "counter", "Completed cases, by status.", "status", STATUSES),
        Family("bmp_micro_cases_planned", "gauge", "Cases in this sweep."),
        Family("bmp_micro_case_latency_seconds", "histogram", "Median latencies of measured cases.", buckets=_LATENCY_S),
        Family("bmp_micro_sampling_seconds_total", "counter", "Seconds spent taking samples."),
        Family("bmp_micro_peak_memory_bytes_per_second", "gauge", "This machine's measured memory bandwidth (triad)."),
        Family("bmp_micro_peak_link_bytes_per_second", "gauge", "This machine's measured bandwidth between two ranks."),
        *(Family(name, "gauge", text, "operator", operators) for name, text in _BY_OPERATOR.items()),
    )


class MicroMetrics:
    """Feeds an exporter with rows."""

    def __init__(self) -> None:
        self.exporter = Exporter(families())
        for name in _BY_OPERATOR:
            for operator in OPERATORS:
                self.exporter.set(name, math.nan, operator)
        for name in ("bmp_micro_peak_memory_bytes_per_second", "bmp_micro_peak_link_bytes_per_second"):
            self.exporter.set(name, math.nan)

    def plan(self, planned: int, peaks: Peaks | None) -> None:
        """What is to come, and the peaks that it is held against."""
        roof = peaks.roof() if peaks else Roof()
        self.exporter.set("bmp_micro_cases_planned", planned)
        self.exporter.set("bmp_micro_peak_memory_bytes_per_second", roof.bytes_per_s or math.nan)
        self.exporter.set("bmp_micro_peak_link_bytes_per_second", roof.link_bytes_per_s or math.nan)

    def add(self, row: Row) -> None:
        """One row."""
        exporter = self.exporter
        exporter.count("bmp_micro_cases_total", label=row.status)
        if row.latency_us is None or row.timed is None:
            return
        seconds = row.latency_us.p50 / 1e6
        exporter.observe("bmp_micro_case_latency_seconds", [seconds])
        exporter.count("bmp_micro_sampling_seconds_total", row.timed.sampling_s)
        shares = row.efficiency or {}
        values = {
            "bmp_micro_operator_latency_seconds": seconds,
            "bmp_micro_operator_flops_per_second": row.tflops and row.tflops * 1e12,
            "bmp_micro_operator_memory_bytes_per_second": row.mem_bw_gbs and row.mem_bw_gbs * 1e9,
            "bmp_micro_operator_bus_bytes_per_second": row.bus_bw_gbs and row.bus_bw_gbs * 1e9,
            "bmp_micro_operator_efficiency_ratio": shares.get("roof_measured", shares.get("cbu_measured")),
        }
        for name, value in values.items():
            exporter.set(name, math.nan if value is None else value, row.op)


class SweepView(LiveView):
    """What a sweep shows: the case that is measured now, and how the others ended."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__("", "cases", quiet=quiet)
        self._counts: Counter[str] = Counter()

    def begins(self, case: Case, _place: int) -> None:
        """The next case."""
        self.update(case.key)

    def add(self, row: Row) -> None:
        """A case has ended: a line, unless it wasn't measured."""
        if row.status in ("ok", "failed"):
            self.note(result_of(row))
        self._counts[row.status] += 1
        self.update(done=self._counts.total(), facts={status: f"{count}" for status, count in self._counts.items() if status != "ok"})


def result_of(row: Row) -> str:
    """A measured row in a line: case, median, rates, share of the peak that binds it; of a failed one why."""
    if row.status == "failed" or row.latency_us is None:
        return f"{row.key}: {row.status}: {row.reason}"
    efficiency = row.efficiency or {}
    share = efficiency.get("roof_measured", efficiency.get("cbu_measured"))
    figures = (
        (row.latency_us.p50, "µs"),
        (row.mem_bw_gbs, "GB/s"),
        (row.bus_bw_gbs, "GB/s of the bus"),
        (row.tflops, "TFLOP/s"),
        (None if share is None else share * 100, "% of peak"),
    )
    return f"{row.key}: " + ", ".join(f"{number(value)} {unit}" for value, unit in figures if value)
