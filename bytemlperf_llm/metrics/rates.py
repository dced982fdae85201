"""Throughput: over the whole run, and over its steady part with ramp-up and ramp-down left out.

The steady window begins when the first answer is complete and the number in flight has reached
0.9 of its time-weighted median, and ends with the last request sent, or when the number in flight
falls below that level for good, whichever is earlier. A run with fewer than fifty answers, or
whose window would be under half of the run, is not cut, and says so.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice

import msgspec

from bytemlperf.arrivals.delivered import NS_PER_S
from bytemlperf.statistics.arrays import ABSENT, ascending
from bytemlperf.statistics.columns import (
    LARGEST,
    either,
    present,
    rows_at_most,
    rows_with,
    rows_within,
    rows_without,
    span_at_least,
    steps_of,
    take,
    weights_of,
)
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import SloMs, SteadySettings
from bytemlperf_llm.metrics.request_metrics import request_column

NS_PER_MS = 1_000_000


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the run, ns from its origin."""

    start_ns: int
    end_ns: int

    @property
    def length_ns(self) -> int:
        return self.end_ns - self.start_ns

    def holds(self, time_ns: int) -> bool:
        """Open at the start: the answer that opens the window isn't counted in it."""
        return self.start_ns < time_ns <= self.end_ns


class SteadyState(msgspec.Struct, kw_only=True):
    """What was cut from the rates. `note` says it in words; without a cut both lengths are 0."""

    window: Window
    whole: Window
    ramp_up_ns: int
    ramp_down_ns: int
    cut: bool
    note: str


class Rate(msgspec.Struct, kw_only=True):
    """`value` over the steady window, `overall` from the first request due to the last end."""

    unit: str
    value: float | None
    overall: float | None


class Goodput(msgspec.Struct, kw_only=True):
    """Requests that met every target; `share` is of those answered, failed, dropped or in flight
    at the end (cancelled ones are left out: the user stopped them)."""

    slo_ms: SloMs
    good_requests: int
    share: float | None
    requests_per_s: Rate


class Steps:
    """The number in flight as a step function: iterates over (from ns, to ns, number)."""

    def __init__(self, times_ns: array[int], levels: array[int]) -> None:
        self._times_ns, self._levels = times_ns, levels

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self._times_ns, islice(self._times_ns, 1, None), self._levels, strict=False)

    def weights_ns(self) -> dict[int, int]:
        """Each number in flight to how long it lasted, over all."""
        found = weights_of(self._times_ns, self._levels)
        if found is not None:
            return found
        weights: dict[int, int] = {}
        for start, end, level in self:
            weights[level] = weights.get(level, 0) + end - start
        return weights

    def busy(self, level: float) -> tuple[int, int] | None:
        """Where the number is at least `level` for the first time, and where for the last; None if never."""
        if (found := span_at_least(self._times_ns, self._levels, level)) is not None:
            return found
        first = next((start for start, _, count in self if count >= level), None)
        return None if first is None else (first, deque((end for _, end, count in self if count >= level), maxlen=1)[0])


def in_flight_steps(acc: Accumulator) -> Steps:
    """The number in flight (sent and not ended) over the run."""
    columns = acc.columns
    sent = ascending(present(columns["sent"]))
    ends = ascending(take(columns["end"], rows_without(acc.rows(), columns["sent"], ABSENT)))
    if (found := steps_of(sent, ends)) is not None:
        return Steps(*found)
    times, levels = array("q"), array("q")
    started = ended = 0
    while ended < len(ends) or started < len(sent):
        now = min(sent[started] if started < len(sent) else ends[ended], ends[ended] if ended < len(ends) else sent[started])
        while started < len(sent) and sent[started] == now:
            started += 1
        while ended < len(ends) and ends[ended] == now:
            ended += 1
        times.append(now)
        levels.append(started - ended)
    return Steps(times, levels)


def median_in_flight(steps: Steps) -> int:
    """Median of the number in flight, weighted by time."""
    weights = steps.weights_ns()
    half, passed = sum(weights.values()) / 2, 0
    for level in sorted(weights):
        passed += weights[level]
        if passed >= half:
            return level
    return 0


def whole_window(acc: Accumulator) -> Window | None:
    """From the first request due to the last end, over requests that were sent or failed; None
    when there are none."""
    columns = acc.columns
    rows = acc.rows("ok") + acc.rows("failed") + acc.rows("in_flight") + rows_without(acc.rows("cancelled"), columns["sent"], ABSENT)
    if not rows:
        return None
    due, end = take(columns["due"], rows), take(columns["end"], rows)
    return Window(start_ns=min(either(due, end)), end_ns=max(end))


def steady_state(acc: Accumulator, steps: Steps, whole: Window, settings: SteadySettings) -> SteadyState:
    """Find ramp-up and ramp-down by the rule in the module's text."""

    def uncut(note: str) -> SteadyState:
        return SteadyState(window=whole, whole=whole, ramp_up_ns=0, ramp_down_ns=0, cut=False, note=f"nothing cut: {note}")

    ok_rows = acc.rows("ok")
    if not settings.enabled:
        return uncut("switched off")
    if len(ok_rows) < settings.min_ok_requests:
        return uncut(f"{len(ok_rows)} responses are insufficient to tell ramps from noise ({settings.min_ok_requests} needed)")
    level = settings.in_flight_share * median_in_flight(steps)
    busy = steps.busy(level)
    if busy is None:
        return uncut("nothing was in flight for any time")
    first_busy, last_busy = busy
    first_answer = min(take(acc.columns["end"], ok_rows))
    last_sent = max(acc.columns["sent"])
    start, end = max(first_answer, first_busy), min(last_sent, last_busy)
    if end - start < settings.min_kept_share * whole.length_ns:
        return uncut("ramp-up and ramp-down fill more than half of the run; run longer for a steady state")
    window = Window(start_ns=start, end_ns=end)
    up, down = start - whole.start_ns, whole.end_ns - end
    note = (
        f"rates leave out {up / NS_PER_S:.2f} s of ramp-up and {down / NS_PER_S:.2f} s of ramp-down of {whole.length_ns / NS_PER_S:.2f} s"
    )
    return SteadyState(window=window, whole=whole, ramp_up_ns=up, ramp_down_ns=down, cut=True, note=note)


def per_second(count: int, window: Window) -> float | None:
    """count per second of the window; None for an empty one."""
    return float(Fraction(count * NS_PER_S, window.length_ns)) if window.length_ns > 0 else None


def _rate(unit: str, steady_count: int, count: int, steady: SteadyState) -> Rate:
    overall = per_second(count, steady.whole)
    return Rate(unit=unit, value=per_second(steady_count, steady.window) if steady.cut else overall, overall=overall)


def throughput(acc: Accumulator, steady: SteadyState) -> dict[str, Rate]:
    """Answers, prompt tokens of answers, and output tokens of answers, per second. An answer and
    its prompt count where it ends; output tokens count where each arrived."""
    columns, ok_rows = acc.columns, acc.rows("ok")
    inside = rows_within(ok_rows, columns["end"], steady.window.start_ns, steady.window.end_ns)
    rates = {"request_throughput": _rate("requests/s", len(inside), len(ok_rows), steady)}
    if ok_rows and not rows_with(ok_rows, columns["prompt"], ABSENT):
        prompt_inside, prompt = (sum(take(columns["prompt"], rows)) for rows in (inside, ok_rows))
        rates["input_token_throughput"] = _rate("tokens/s", prompt_inside, prompt, steady)
    output = sum(take(columns["output"], ok_rows))
    output_inside = _tokens_inside(acc, ok_rows, steady.window) if steady.cut else output
    rates["output_token_throughput"] = _rate("tokens/s", output_inside, output, steady)
    return rates


def _tokens_inside(acc: Accumulator, ok_rows: Sequence[int], window: Window) -> int:
    """Output tokens that arrived inside the window. Only requests that straddle an edge are
    walked; a batch's tokens count as spread over its gap."""
    columns = acc.columns
    first, last, output, stream = (columns[name] for name in ("first", "last", "output", "stream"))
    start_ns, end_ns = window.start_ns, window.end_ns
    touching = rows_within(rows_within(ok_rows, first, ABSENT, end_ns), last, start_ns, LARGEST)
    begun_inside = rows_within(touching, first, start_ns, LARGEST)
    total = sum(take(output, rows_within(begun_inside, last, ABSENT, end_ns)))
    for row in rows_within(touching, first, ABSENT, start_ns) + rows_within(begun_inside, last, end_ns, LARGEST):
        if stream[row]:
            total += output[row] * _stamps_inside(first[row], acc.itl.runs_of(row), window) // stream[row]
    return total


def _stamps_inside(first_ns: int, runs: tuple[Sequence[int], Sequence[int]], window: Window) -> int:
    """How many tokens of a request arrived inside the window; a run of equal intervals is counted, not walked."""
    found, now = int(window.holds(first_ns)), first_ns
    for gap, count in zip(*runs, strict=True):
        if gap > 0 and count > 1:
            upto, before = ((edge - now) // gap for edge in (window.end_ns, window.start_ns))
            found += min(max(upto, 0), count) - min(max(before, 0), count)
        else:
            found += count * window.holds(now + gap)
        now += gap * count
    return found


def goodput(acc: Accumulator, steady: SteadyState, slo: SloMs) -> Goodput | None:
    """Requests/s that met every target, from t0; None when no target was set."""
    if slo == SloMs():
        return None
    good = _meeting(acc, slo)
    window = steady.window
    inside = len(rows_within(good, acc.columns["end"], window.start_ns, window.end_ns)) if steady.cut else len(good)
    judged = sum(acc.outcomes[outcome] for outcome in ("ok", "failed", "dropped", "in_flight"))
    share = float(Fraction(len(good), judged)) if judged else None
    return Goodput(slo_ms=slo, good_requests=len(good), share=share, requests_per_s=_rate("requests/s", inside, len(good), steady))


def _meeting(acc: Accumulator, slo: SloMs) -> array[int]:
    """Rows of answers that met every target. A single token has no TPOT and so can't miss its target,
    as in vLLM; no token misses all."""
    rows = rows_without(acc.rows("ok"), acc.columns["first"], ABSENT)
    for name, limit_ms in (("ttft", slo.ttft), ("tpot", slo.tpot), ("e2e", slo.e2e)):
        if limit_ms is not None and math.isfinite(limit_ms):
            limit_ns = min(math.floor(limit_ms * NS_PER_MS), LARGEST)  # what is not above it is not above the limit, being whole
            rows = rows_at_most(rows, request_column(acc.columns, name, rows), limit_ns)
    return rows
