"""Throughput: over the whole run, and over its steady part with ramp-up and ramp-down left out.

The steady window begins when the first answer is complete and the number in flight has reached
0.9 of its time-weighted median, and ends with the last request sent, or when the number in flight
falls below that level for good, whichever is earlier. A run with fewer than fifty answers, or
whose window would be under half of the run, is not cut, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column, either, present, total_of
from bytemlperf.units import NS_PER_MS, NS_PER_S
from bytemlperf_llm.metrics.accumulator import Accumulator, request_column
from bytemlperf_llm.metrics.facts import ClassFacts, SloMs

LARGEST = (1 << 63) - 1
IN_FLIGHT_SHARE = 0.9
"""Of the time-weighted median number in flight: below it the run ramps up or down."""
MIN_OK_REQUESTS = 50
"""With fewer, nothing is cut."""
MIN_KEPT_SHARE = 0.5
"""Of the time; a shorter window is no steady state."""


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
    at the end (cancelled ones are left out: the user stopped them). `slo_ms` is None where classes have targets of their own; requests
    of a class without any aren't judged."""

    slo_ms: SloMs | None
    good_requests: int
    share: float | None
    requests_per_s: Rate


class Steps(NamedTuple):
    """The number in flight as a step function: `levels[i]` of them from `times_ns[i]` to `times_ns[i + 1]`."""

    times_ns: Column
    levels: Column

    def busy(self, level: float) -> tuple[int, int] | None:
        """Where the number is at least `level` for the first time, and where for the last; None if never."""
        places = (self.levels[:-1] >= level).nonzero()[0]
        return (int(self.times_ns[places[0]]), int(self.times_ns[places[-1] + 1])) if len(places) else None

    def median(self) -> int:
        """Median of the number, weighted by time; 0 where there is none."""
        order = numpy.argsort(self.levels[:-1], kind="stable")
        passed = numpy.cumsum(numpy.diff(self.times_ns)[order])
        return int(self.levels[order[numpy.searchsorted(passed, -(-passed[-1] // 2))]]) if len(passed) else 0


def in_flight_steps(acc: Accumulator) -> Steps:
    """The number in flight (sent and not ended) over the run."""
    columns = acc.columns
    sent, ends = numpy.sort(present(columns["sent"])), numpy.sort(columns["end"][columns["sent"] != ABSENT])
    times = numpy.union1d(sent, ends)
    return Steps(times, numpy.searchsorted(sent, times, side="right") - numpy.searchsorted(ends, times, side="right"))


def whole_window(acc: Accumulator) -> Window | None:
    """From the first request due to the last end, over requests that were sent or failed; None
    when there are none."""
    columns = acc.columns
    cancelled = acc.rows("cancelled")
    sent = cancelled[columns["sent"][cancelled] != ABSENT]
    rows = numpy.concatenate([acc.rows("ok"), acc.rows("failed"), acc.rows("in_flight"), sent])
    if not len(rows):
        return None
    due, end = columns["due"][rows], columns["end"][rows]
    return Window(start_ns=int(either(due, end).min()), end_ns=int(end.max()))


def steady_state(acc: Accumulator, steps: Steps, whole: Window) -> SteadyState:
    """Find ramp-up and ramp-down by the rule in the module's text."""

    def uncut(note: str) -> SteadyState:
        return SteadyState(window=whole, whole=whole, ramp_up_ns=0, ramp_down_ns=0, cut=False, note=f"nothing cut: {note}")

    ok_rows = acc.rows("ok")
    if len(ok_rows) < MIN_OK_REQUESTS:
        return uncut(f"{len(ok_rows)} responses are insufficient to tell ramps from noise ({MIN_OK_REQUESTS} needed)")
    level = IN_FLIGHT_SHARE * steps.median()
    busy = steps.busy(level)
    if busy is None:
        return uncut("nothing was in flight for any time")
    first_busy, last_busy = busy
    first_answer = int(acc.columns["end"][ok_rows].min())
    last_sent = int(acc.columns["sent"].max())
    start, end = max(first_answer, first_busy), min(last_sent, last_busy)
    if end - start < MIN_KEPT_SHARE * whole.length_ns:
        return uncut("ramp-up and ramp-down fill more than half of the run; run longer for a steady state")
    window = Window(start_ns=start, end_ns=end)
    up, down = start - whole.start_ns, whole.end_ns - end
    note = (
        f"rates leave out {up / NS_PER_S:.2f} s of ramp-up and {down / NS_PER_S:.2f} s of ramp-down of {whole.length_ns / NS_PER_S:.2f} s"
    )
    return SteadyState(window=window, whole=whole, ramp_up_ns=up, ramp_down_ns=down, cut=True, note=note)


def until_idle(whole: Window, idle_ns: int) -> SteadyState:
    """Of a run of sessions: from its start to when the first user, or the schedule, had no more session to begin."""
    end_ns = min(max(idle_ns, whole.start_ns), whole.end_ns)
    tail_s = (whole.end_ns - end_ns) / NS_PER_S
    note = f"rates leave out the last {tail_s:.2f} s of {whole.length_ns / NS_PER_S:.2f} s, in which no session was left to begin"
    window = Window(start_ns=whole.start_ns, end_ns=end_ns)
    return SteadyState(window=window, whole=whole, ramp_up_ns=0, ramp_down_ns=whole.end_ns - end_ns, cut=True, note=note)


def per_second(count: int, window: Window) -> float | None:
    """count per second of the window; None for an empty one."""
    return float(Fraction(count * NS_PER_S, window.length_ns)) if window.length_ns > 0 else None


def _rate(unit: str, steady_count: int, count: int, steady: SteadyState) -> Rate:
    overall = per_second(count, steady.whole)
    return Rate(unit=unit, value=per_second(steady_count, steady.window) if steady.cut else overall, overall=overall)


def throughput(acc: Accumulator, steady: SteadyState) -> dict[str, Rate]:
    """Answers, prompt tokens of answers, and output tokens of answers, per second; of vectors and scores, inputs. An answer and
    its prompt count where it ends; output tokens count where each arrived."""
    columns, ok_rows = acc.columns, acc.rows("ok")
    inside = _within(ok_rows, columns["end"], steady.window.start_ns, steady.window.end_ns)
    rates = {"request_throughput": _rate("requests/s", len(inside), len(ok_rows), steady)}
    if len(ok_rows) and (columns["prompt"][ok_rows] != ABSENT).all():
        prompt_inside, prompt = (total_of(columns["prompt"][rows]) for rows in (inside, ok_rows))
        rates["input_token_throughput"] = _rate("tokens/s", prompt_inside, prompt, steady)
    if len(ok_rows) and columns["inputs"][ok_rows].all():
        inputs_inside, inputs = (total_of(columns["inputs"][rows]) for rows in (inside, ok_rows))
        return rates | {"input_throughput": _rate("inputs/s", inputs_inside, inputs, steady)}
    output = total_of(columns["output"][ok_rows])
    output_inside = _tokens_inside(acc, ok_rows, steady.window) if steady.cut else output
    rates["output_token_throughput"] = _rate("tokens/s", output_inside, output, steady)
    return rates


def _within(rows: Column, values: Column, above: int, upto: int) -> Column:
    """Those of the rows where above < value ≤ upto."""
    chosen = values[rows]
    return rows[(chosen > above) & (chosen <= upto)]


def _tokens_inside(acc: Accumulator, ok_rows: Column, window: Window) -> int:
    """Output tokens that arrived inside the window. Only requests that straddle an edge are
    walked; a batch's tokens count as spread over its gap."""
    columns = acc.columns
    first, last, output, stream = (columns[name] for name in ("first", "last", "output", "stream"))
    start_ns, end_ns = window.start_ns, window.end_ns
    touching = _within(_within(ok_rows, first, ABSENT, end_ns), last, start_ns, LARGEST)
    whole = (first[touching] > start_ns) & (last[touching] <= end_ns)
    straddling = [row for row in touching[~whole].tolist() if stream[row]]
    return total_of(output[touching[whole]]) + sum(
        int(output[row]) * _stamps_inside(int(first[row]), acc.itl.runs_of(row), window) // int(stream[row]) for row in straddling
    )


def _stamps_inside(first_ns: int, runs: tuple[Column, Column], window: Window) -> int:
    """How many tokens of a request arrived inside the window; a run of equal intervals is counted, not walked."""
    gaps, counts = runs
    ends = first_ns + numpy.cumsum(gaps * counts)
    begins, step = ends - gaps * counts, numpy.maximum(gaps, 1)
    upto, before = (numpy.clip((edge - begins) // step, 0, counts) for edge in (window.end_ns, window.start_ns))
    together = counts * ((ends > window.start_ns) & (ends <= window.end_ns))
    return int(window.holds(first_ns)) + int(numpy.where(gaps > 0, upto - before, together).sum())


def goodput(acc: Accumulator, steady: SteadyState, slo: SloMs, classes: Sequence[ClassFacts] = ()) -> Goodput | None:
    """Requests/s that met every target of requests, their own class's where there are classes, from t0; None when no target was set."""
    parts = [(acc.part("class_name", each.name), each.slo_ms.of_requests()) for each in classes] or [(acc, slo.of_requests())]
    parts = [(part, targets) for part, targets in parts if targets != SloMs()]
    if not parts:
        return None
    good = numpy.concatenate([_meeting(part, targets) for part, targets in parts])
    window = steady.window
    inside = len(_within(good, acc.columns["end"], window.start_ns, window.end_ns)) if steady.cut else len(good)
    judged = sum(part.outcomes[outcome] for part, _ in parts for outcome in ("ok", "failed", "dropped", "in_flight"))
    share = float(Fraction(len(good), judged)) if judged else None
    common = parts[0][1] if len({targets for _, targets in parts}) == 1 else None
    return Goodput(slo_ms=common, good_requests=len(good), share=share, requests_per_s=_rate("requests/s", inside, len(good), steady))


def _meeting(acc: Accumulator, slo: SloMs) -> Column:
    """Rows of answers that met every target. A single token has no TPOT and so can't miss its target,
    as in vLLM; no token misses all."""
    rows = _within(acc.rows("ok"), acc.columns["last"], ABSENT, LARGEST)
    for name, limit_ms in (("ttft", slo.ttft), ("tpot", slo.tpot), ("e2e", slo.e2e)):
        if limit_ms is not None and math.isfinite(limit_ms):
            limit_ns = min(math.floor(limit_ms * NS_PER_MS), LARGEST)  # what is not above it is not above the limit, being whole
            rows = rows[request_column(acc.columns, name, rows) <= limit_ns]
    return rows
