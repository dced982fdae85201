"""MLPerf Endpoints' steady-state verdict (rules 4.4): over which part of a run its official figures are, and whether there is one.

Requests are cut, in the order of their issue, into super-passes of one pass over the dataset. Super-passes whose median TPOT is not
yet near that of the later half are left out. From there the window grows while the gating metrics (TPOT at P50 and P90 of each
super-pass) vary little and don't drift, which is a significant trend of 5 % or more from end to end. The first such plateau of at least
four super-passes that lasts long enough is the steady state. A later plateau at another level, with a change point, is an anomaly; drift
from the plateau to the end of the run claims none. Tests and bounds are those of the reference's metrics/steady_state_diagnostics.py:
Mann-Kendall with Hamed and Rao's variance (J. Hydrol. 204, 1998) and Pettitt's (Appl. Stat. 28, 1979), both at 5 %, a coefficient of
variation of at most 0.08, five times the p90 latency, and as many super-passes as put the mean of their medians within 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.special import normal_quantile
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.mlperf.samples import Samples, lower_percentile

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

MIN_SUPER_PASSES = 4
SIGNIFICANCE = 0.05
MOST_VARIATION = 0.08
SETTLED_BAND = 0.05
"""Of the later half's median TPOT: a first super-pass further off is still settling."""
SHIFT_BAND = 0.05
LEAST_DRIFT = 0.05
"""Of the median, from end to end: a significant trend below it is noise, which long runs are full of."""
PRECISION = 0.05
LATENCIES = 5
GATING = {"tpot_p50": "50", "tpot_p90": "90"}

Status = Literal["windowable", "insufficient_duration", "insufficient_passes", "partial_dataset"]
Verdict = Literal["STEADY STATE", "drifting_up", "drifting_down", "anomaly", "not found"]
State = Literal["Plateau", "Drifting Up", "Drifting Down"]
Trend = Literal[-1, 0, 1]
STATES: dict[Trend, State] = {0: "Plateau", 1: "Drifting Up", -1: "Drifting Down"}


class Window(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Super-passes from the first to the last, both included; `duration_s` is the span of their issue."""

    super_pass_size: int
    super_pass_start: int | None = None
    super_pass_end: int | None = None
    n_samples: int | None = None
    duration_s: float | None = None


class SteadyState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The `steady_state` block of point.yaml. Only `windowable` makes the window's figures official."""

    status: Status
    verdict: Verdict
    window: Window
    state: dict[str, State] = {}
    anomaly: dict[str, float] | None = None

    def official(self, samples: Samples) -> Samples | None:
        """The requests that the official figures are of; None where those are of the whole run."""
        window, size = self.window, self.window.super_pass_size
        if self.status != "windowable" or window.super_pass_start is None or window.super_pass_end is None:
            return None
        return samples.part(window.super_pass_start * size, (window.super_pass_end + 1) * size)


def steady_state(samples: Samples, dataset_size: int, least_s: float) -> SteadyState:
    """Of a run over a dataset of so many requests whose window must be at least so long."""
    passes = [samples.part(start, start + dataset_size) for start in range(0, samples.requests - dataset_size + 1, dataset_size)]
    none = Window(super_pass_size=dataset_size)
    if not passes:
        return SteadyState(status="partial_dataset", verdict="not found", window=none)
    gating = {name: [_percentile(part, percent) for part in passes] for name, percent in GATING.items()}
    settled = _settled(gating["tpot_p50"])
    plateaus = _plateaus(list(gating.values()), settled)
    if not plateaus:
        return SteadyState(status="insufficient_passes", verdict="not found", window=none)
    windows = [samples.part(first * dataset_size, last * dataset_size) for first, last in plateaus]
    long_enough = [
        _required_s(window, gating["tpot_p50"][first:last], least_s) <= window.issue_span_ns / NS_PER_S
        for window, (first, last) in zip(windows, plateaus, strict=True)
    ]
    longest = max(range(len(windows)), key=lambda place: windows[place].issue_span_ns)
    chosen = long_enough.index(True) if any(long_enough) else longest
    start, stop = plateaus[chosen]
    shift = _shift(passes, plateaus[chosen:], settled)
    trends = {name: drift(values[start:]) for name, values in gating.items()}
    state = {name: STATES[0 if shift else way] for name, way in trends.items()}
    if not shift and any(trends.values()):
        verdict: Verdict = "drifting_up" if 1 in trends.values() else "drifting_down"
        return SteadyState(status="insufficient_passes", verdict=verdict, window=none, state=state)
    window = Window(
        super_pass_size=dataset_size,
        super_pass_start=start,
        super_pass_end=stop - 1,
        n_samples=windows[chosen].requests,
        duration_s=round(windows[chosen].issue_span_ns / NS_PER_S, 6),
    )
    status: Status = "windowable" if long_enough[chosen] else "insufficient_duration"
    return SteadyState(status=status, verdict="anomaly" if shift else "STEADY STATE", window=window, state=state, anomaly=shift)


def _required_s(window: Samples, medians: Sequence[float], least_s: float) -> float:
    """How long a window with these medians of its super-passes must be: not shorter than the rules want."""
    latencies = numpy.sort(window.latency_ns())
    settling_s = LATENCIES * lower_percentile(latencies, "90") / NS_PER_S if len(latencies) else 0.0
    needed = math.ceil((normal_quantile(1 - SIGNIFICANCE / 2) * _variation(medians) / PRECISION) ** 2)
    precise_s = needed * window.issue_span_ns / NS_PER_S / len(medians) if needed > MIN_SUPER_PASSES else 0.0
    return max(least_s, settling_s, precise_s)


def _percentile(part: Samples, percent: str) -> float:
    values = numpy.sort(part.tpot_ns())
    return float(lower_percentile(values, percent)) if len(values) else math.nan


def _mean(part: Samples) -> float:
    values = part.tpot_ns()
    return float(values.mean()) if len(values) else math.nan


def _settled(medians: Sequence[float]) -> int:
    """How many super-passes are left out at the beginning: at least one, at most half."""
    steady = float(numpy.median(medians[len(medians) // 2 :]))
    first = next((place for place, value in enumerate(medians) if abs(value - steady) <= SETTLED_BAND * steady), len(medians))
    return max(1, min(first, len(medians) // 2))


def _plateaus(gating: Sequence[Sequence[float]], start: int) -> list[tuple[int, int]]:
    """Stretches of super-passes over which all metrics are steady, each as long as it can be, without overlap."""
    found, count = [], len(gating[0])
    while start <= count - MIN_SUPER_PASSES:
        stop = start + MIN_SUPER_PASSES
        while stop <= count and all(_steady(values[start:stop]) for values in gating):
            stop += 1
        longest = stop - 1
        if longest - start >= MIN_SUPER_PASSES:
            found.append((start, longest))
            start = longest
        else:
            start += 1
    return found


def _steady(values: Sequence[float]) -> bool:
    return _variation(values) <= MOST_VARIATION and drift(values) == 0


def _variation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return float(numpy.std(values)) / mean if mean > 0 else math.inf


def _change(values: Sequence[float]) -> float:
    """From end to end of the line of least squares, over the median."""
    if len(values) < MIN_SUPER_PASSES:
        return 0.0
    slope = float(numpy.polyfit(numpy.arange(len(values)), values, 1)[0])
    return slope * (len(values) - 1) / float(numpy.median(values))


def drift(values: Sequence[float]) -> Trend:
    """The trend, where it is large enough to matter."""
    return trend(values) if abs(_change(values)) >= LEAST_DRIFT else 0


def trend(values: Sequence[float]) -> Trend:
    """1 where the values rise, -1 where they fall, 0 where neither is significant: Mann and Kendall's S against its variance with
    ties, times Hamed and Rao's factor of the ranks' significant autocorrelations. Under four values there is none."""
    count = len(values)
    if count < MIN_SUPER_PASSES:
        return 0
    array = numpy.asarray(values, "f8")
    rises = int(numpy.sign(numpy.triu(array[None, :] - array[:, None], 1)).sum())
    ties = numpy.unique(array, return_counts=True)[1]
    variance = (count * (count - 1) * (2 * count + 5) - int((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    factor = _autocorrelation_factor(array)
    variance *= factor if factor > 0 else 1.0
    if variance <= 0 or (abs(rises) - 1) / math.sqrt(variance) <= normal_quantile(1 - SIGNIFICANCE / 2):
        return 0
    return 1 if rises > 0 else -1


def _autocorrelation_factor(values: NDArray[float64]) -> float:
    count = len(values)
    ranks = numpy.argsort(numpy.argsort(values, kind="stable")) - (count - 1) / 2
    total = 0.0
    for lag in range(1, count - 2):
        correlation = float(ranks[lag:] @ ranks[:-lag] / (ranks @ ranks))
        if abs(correlation) > normal_quantile(1 - SIGNIFICANCE / 2) / math.sqrt(count):
            total += (count - lag) * (count - lag - 1) * (count - lag - 2) * correlation
    return 1 + 2 * total / (count * (count - 1) * (count - 2))


def _shift(passes: Sequence[Samples], plateaus: Sequence[tuple[int, int]], settled: int) -> dict[str, float] | None:
    """Where a plateau after the first of these is at another mean TPOT, and Pettitt's test finds a change point. A run that climbs all the
    time has one too: there, what is on one side of it changes about as much as from one side to the other."""
    means = [_mean(part) for part in passes]
    levels = [sum(means[first:last]) / (last - first) for first, last in plateaus]
    place = next((place for place, level in enumerate(levels) if abs(level / levels[0] - 1) > SHIFT_BAND), None)
    if place is None or not _changes(means[settled:]):
        return None
    start = plateaus[place][0]
    sides = means[settled:start], means[start:]
    step = abs(sum(sides[1]) / len(sides[1]) / (sum(sides[0]) / len(sides[0])) - 1)
    if any(trend(side) and abs(_change(side)) > step / 2 for side in sides):
        return None
    return {"super_pass": start, "delta_percent": round(100 * (levels[place] / levels[0] - 1), 3)}


def _changes(values: Sequence[float]) -> bool:
    """Whether the values before some place differ from those after it, by Pettitt's test."""
    count = len(values)
    array = numpy.asarray(values, "f8")
    ranks = (array[:, None] > array[None, :]).sum(axis=1) + ((array[:, None] == array[None, :]).sum(axis=1) + 1) / 2
    sizes = numpy.arange(1, count)
    greatest = float(numpy.abs(2 * numpy.cumsum(ranks)[:-1] - sizes * (count + 1)).max())
    return 2 * math.exp(-6 * greatest**2 / (count**3 + count**2)) < SIGNIFICANCE
