"""Throughput: over the whole run, and over its steady part with ramp-up and ramp-down left out.

The steady window begins when the first answer is complete and the number in flight has reached
0.9 of its time-weighted median, and ends with the last request sent, or when the number in flight
falls below that level for good, whichever is earlier. A run with fewer than fifty answers, or
whose window would be under half of the run, is not cut, and says so.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate, islice, pairwise

import msgspec

from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.arrays import ABSENT, ascending
from bytemlperf_llm.metrics.facts import SloMs, SteadySettings
from bytemlperf_llm.metrics.load import NS_PER_S
from bytemlperf_llm.metrics.request_metrics import REQUEST_METRICS

NS_PER_MS = 1_000_000
TREND_GROWTH = 1.5
"""A queue that grows by half from the second to the last third of the arrivals doesn't settle."""
TREND_MIN_REQUESTS = 60  # twenty arrivals a third
TREND_MIN_EXCESS = 4  # requests in flight: less is noise


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


def in_flight_steps(acc: Accumulator) -> Steps:
    """The number in flight (sent and not ended) over the run."""
    columns = acc.columns
    sent = ascending(value for value in columns["sent"] if value != ABSENT)
    ends = ascending(end for start, end in zip(columns["sent"], columns["end"], strict=True) if start != ABSENT)
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
    weights: dict[int, int] = {}
    for start, end, level in steps:
        weights[level] = weights.get(level, 0) + end - start
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
    rows = array("q", (row for outcome in ("ok", "failed", "in_flight") for row in acc.rows(outcome)))
    rows.extend(row for row in acc.rows("cancelled") if columns["sent"][row] != ABSENT)
    if not rows:
        return None
    first_due = min(columns["due"][row] if columns["due"][row] != ABSENT else columns["end"][row] for row in rows)
    return Window(start_ns=first_due, end_ns=max(columns["end"][row] for row in rows))


def steady_state(acc: Accumulator, steps: Steps, whole: Window, settings: SteadySettings) -> SteadyState:
    """Find ramp-up and ramp-down by the rule in the module's text."""

    def uncut(note: str) -> SteadyState:
        return SteadyState(window=whole, whole=whole, ramp_up_ns=0, ramp_down_ns=0, cut=False, note=f"nothing cut: {note}")

    ok_rows = acc.rows("ok")
    if not settings.enabled:
        return uncut("switched off")
    if len(ok_rows) < settings.min_ok_requests:
        return uncut(f"{len(ok_rows)} answers are too few to tell ramps from noise ({settings.min_ok_requests} needed)")
    level = settings.in_flight_share * median_in_flight(steps)
    first_busy = next((start for start, _, count in steps if count >= level), None)
    if first_busy is None:
        return uncut("nothing was in flight for any time")
    last_busy = deque((end for _, end, count in steps if count >= level), maxlen=1)[0]
    first_answer = min(acc.columns["end"][row] for row in ok_rows)
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
    inside = array("q", (row for row in ok_rows if steady.window.holds(columns["end"][row])))
    rates = {"request_throughput": _rate("requests/s", len(inside), len(ok_rows), steady)}
    if ok_rows and all(columns["prompt"][row] != ABSENT for row in ok_rows):
        prompt_inside, prompt = (sum(columns["prompt"][row] for row in rows) for rows in (inside, ok_rows))
        rates["input_token_throughput"] = _rate("tokens/s", prompt_inside, prompt, steady)
    output = sum(columns["output"][row] for row in ok_rows)
    output_inside = _tokens_inside(acc, ok_rows, steady.window) if steady.cut else output
    rates["output_token_throughput"] = _rate("tokens/s", output_inside, output, steady)
    return rates


def _tokens_inside(acc: Accumulator, ok_rows: Sequence[int], window: Window) -> int:
    """Output tokens that arrived inside the window. Only requests that straddle an edge are
    walked token by token; a batch's tokens count as spread over its gap."""
    columns = acc.columns
    total = 0
    for row in ok_rows:
        first, last, output = columns["first"][row], columns["last"][row], columns["output"][row]
        if first == ABSENT:
            continue
        if window.holds(first) and window.holds(last):
            total += output
        elif first <= window.end_ns and last > window.start_ns and columns["stream"][row]:
            stamps = accumulate(acc.itl.cluster_of(row), initial=first)
            total += output * sum(window.holds(stamp) for stamp in stamps) // columns["stream"][row]
    return total


def goodput(acc: Accumulator, steady: SteadyState, slo: SloMs) -> Goodput | None:
    """Requests/s that met every target, from t0; None when no target was set."""
    if slo == SloMs():
        return None
    good = array("q", (row for row in acc.rows("ok") if _meets(acc, row, slo)))
    inside = sum(steady.window.holds(acc.columns["end"][row]) for row in good) if steady.cut else len(good)
    judged = sum(acc.outcomes[outcome] for outcome in ("ok", "failed", "dropped", "in_flight"))
    share = float(Fraction(len(good), judged)) if judged else None
    return Goodput(slo_ms=slo, good_requests=len(good), share=share, requests_per_s=_rate("requests/s", inside, len(good), steady))


def _meets(acc: Accumulator, row: int, slo: SloMs) -> bool:
    """A single token has no TPOT and so can't miss its target, as in vLLM; no token misses all."""
    if acc.columns["first"][row] == ABSENT:
        return False
    for name, limit_ms in (("ttft", slo.ttft), ("tpot", slo.tpot), ("e2e", slo.e2e)):
        value = REQUEST_METRICS[name](acc.columns, row) if limit_ms is not None else None
        if limit_ms is not None and value is not None and value > limit_ms * NS_PER_MS:
            return False
    return True


def queue_grows(acc: Accumulator, steps: Steps) -> bool:
    """Whether the number in flight kept growing while requests arrived: more than the system can
    take. Compares mean numbers in flight over thirds of the time between first and last send."""
    sent = ascending(value for value in acc.columns["sent"] if value != ABSENT)
    if len(sent) < TREND_MIN_REQUESTS or sent[0] == sent[-1]:
        return False
    edges = [sent[0] + (sent[-1] - sent[0]) * third // 3 for third in range(4)]
    early, middle, late = (_mean_level(steps, a, b) for a, b in pairwise(edges))
    return late > TREND_GROWTH * middle and middle > TREND_GROWTH * early and late - early > TREND_MIN_EXCESS


def _mean_level(steps: Steps, start_ns: int, end_ns: int) -> float:
    area = sum(level * max(0, min(end, end_ns) - max(start, start_ns)) for start, end, level in steps)
    return area / (end_ns - start_ns)
