"""What the engine said of itself over the run (gauges.jsonl): panels below the timeline, and a table of extremes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bytemlperf.lazy import numpy
from bytemlperf.runs.kinds import Table
from bytemlperf.statistics.columns import Floats
from bytemlperf_llm.record.gauges import Sample

LABELS = {
    "running": "running in the engine",
    "waiting": "waiting in the engine",
    "kv_cache_usage": "KV cache used",
    "kv_cache_peak_usage": "KV cache used, peak so far",
    "prefix_cache_hit_rate": "prefix cache hits so far",
    "preemptions": "preemptions so far",
    "power_w": "power, W",
    "clock_mhz": "clock, MHz",
    "temperature_c": "temperature, °C",
    "memory_used_gb": "memory used, GB",
    "busy_share": "busy",
    "step_s": "iteration, s",
}
DEVICES = {"cpu ": "CPU ", "gpu ": "GPU "}
REQUEST_LEVELS = ("running", "waiting")
TOKEN_RATES = ("prompt_tokens_per_s", "output_tokens_per_s")
SHARE_ENDINGS = ("_usage", "_rate", "_share")
SAMPLED = "Engine metrics are sampled about once a second; shorter peaks are not seen."


class GaugeLine(NamedTuple):
    """One gauge over time: seconds from the first request due, and its values (shares in percent)."""

    name: str
    times: Floats
    values: Floats

    @property
    def label(self) -> str:
        known = next((name for name in LABELS if f"_{self.name}".endswith(f"_{name}")), "")
        role = self.name.removesuffix(known).removesuffix("_per_s").replace("_", " ")
        rate = "/s" if self.name.endswith("_per_s") else ""
        return f"{DEVICES.get(role, role)}{LABELS.get(known, rate)}"

    @property
    def is_share(self) -> bool:
        return self.name.endswith(SHARE_ENDINGS)


def gauge_lines(samples: Sequence[Sample], origin_ns: int) -> list[GaugeLine]:
    """Each gauge that was ever told, in the order of its first telling."""
    names = list(dict.fromkeys(name for sample in samples for name in sample.gauges))
    lines = []
    for name in names:
        told = [(sample.at_ns - origin_ns, sample.gauges[name]) for sample in samples if name in sample.gauges]
        times, values = numpy.array(told, dtype="f8").T
        line = GaugeLine(name, times / 1e9, values)
        lines.append(line._replace(values=values * 100) if line.is_share else line)
    return lines


def gauge_panels(lines: Sequence[GaugeLine]) -> list[tuple[str, list[GaugeLine]]]:
    """Axis title and gauges of each panel: requests by state, shares, and preemptions where there were any."""
    panels = [
        ("in engine", [line for line in lines if line.name.endswith(REQUEST_LEVELS)]),
        ("engine, %", [line for line in lines if line.is_share]),
        ("engine, tokens/s", [line for line in lines if line.name.endswith(TOKEN_RATES)]),
        ("W", [line for line in lines if line.name.endswith("power_w")]),
        ("MHz", [line for line in lines if line.name.endswith("clock_mhz")]),
        ("preempted", [line for line in lines if line.name.endswith("preemptions") and line.values.max() > 0]),
    ]
    return [(title, members) for title, members in panels if members]


def gauge_table(lines: Sequence[GaugeLine], group: str) -> Table:
    """Least, median, greatest and last value of each gauge."""
    rows: list[list[str | float | int | None]] = [
        [
            f"{line.label}, %" if line.is_share else line.label,
            *(float(value) for value in (line.values.min(), numpy.median(line.values), line.values.max(), line.values[-1])),
            len(line.values),
        ]
        for line in lines
    ]
    columns = ["", "least", "median", "greatest", "last", "samples"]
    return Table(title="Engine metrics", columns=columns, rows=rows, note=SAMPLED, folded=True, group=group)
