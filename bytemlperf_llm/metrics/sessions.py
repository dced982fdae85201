"""What a run says of its sessions: how they ended, how long they took and why."""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec

from bytemlperf.arrivals.delivered import rate_of
from bytemlperf.statistics.columns import column
from bytemlperf.statistics.metric import Metric, describe
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.rates import Window, per_second
from bytemlperf_llm.metrics.session_tally import Path, SessionTally

FORMULAS = {
    "session_time": "last turn's end − first turn due, of sessions whose turns all succeeded",
    "session_model": "time on the critical path from a turn's sending to its end",
    "session_tool": "time on the critical path from a turn's last parent's end to when it was due: tools and thinking",
    "session_queue": "time on the critical path from when a turn was due to its sending",
}


class SessionGoodput(msgspec.Struct, kw_only=True):
    """Sessions that went well within `limit_ms`; `share` is of those that ended, well or not, and `sessions_per_s` over the window."""

    limit_ms: float
    good_sessions: int
    share: float | None
    sessions_per_s: float | None


class Sessions(msgspec.Struct, kw_only=True):
    """`sessions` of summary.json. `critical_path` are shares of the whole time of sessions that went well: model, tool, queue; they sum to
    1."""

    answers: str
    sessions: int
    outcomes: dict[str, int]
    turns: int
    dropped_turns: int
    requested_rate: float | None
    offered_rate: float | None
    completed_per_s: float | None
    metrics: dict[str, Metric]
    critical_path: dict[str, float] | None
    goodput: SessionGoodput | None = None


def sessions_of(acc: Accumulator, facts: RunFacts, window: Window) -> Sessions | None:
    """None for a run of single requests. Rates are over the window."""
    tally, about = acc.sessions, facts.sessions
    if about is None:
        return None
    paths, outcomes = tally.paths(), tally.outcomes()
    ended = outcomes["ok"] + outcomes["failed"]
    return Sessions(
        answers=about.answers,
        sessions=len(tally),
        outcomes=outcomes,
        turns=tally.turns,
        dropped_turns=tally.dropped_turns,
        requested_rate=about.requested_rate,
        offered_rate=rate_of(column(tally.starts())) if facts.open_loop else None,
        completed_per_s=_completed(paths, window),
        metrics=_metrics(paths, facts, outcomes["failed"]),
        critical_path=_shares(paths),
        goodput=_goodput(paths, facts.slo_ms.session, ended, window),
    )


def idle_ns(tally: SessionTally, *, open_loop: bool) -> int | None:
    """When the first lane had no more work: the schedule's last start in open loop, else the first end of a session after that start."""
    starts = tally.starts()
    if not starts or open_loop:
        return starts[-1] if starts else None
    return next((end for end in tally.ends() if end > starts[-1]), starts[-1])


def _completed(paths: list[Path], window: Window) -> float | None:
    return per_second(sum(window.holds(path.end_ns) for path in paths), window)


def _metrics(paths: list[Path], facts: RunFacts, failed: int) -> dict[str, Metric]:
    values = {
        "session_time": [path.end_ns - path.start_ns for path in paths],
        "session_model": [path.model_ns for path in paths],
        "session_tool": [path.tool_ns for path in paths],
        "session_queue": [path.queue_ns for path in paths],
    }
    infinite = {"session_time": failed}
    found = {name: describe(column(times), "ns", FORMULAS[name], facts.percentiles, infinite.get(name)) for name, times in values.items()}
    return {name: metric for name, metric in found.items() if metric is not None}


def _shares(paths: list[Path]) -> dict[str, float] | None:
    whole = sum(path.end_ns - path.start_ns for path in paths)
    parts = {name: sum(getattr(path, f"{name}_ns") for path in paths) for name in ("model", "tool", "queue")}
    return {name: float(Fraction(part, whole)) for name, part in parts.items()} if whole else None


def _goodput(paths: list[Path], limit_ms: float | None, ended: int, window: Window) -> SessionGoodput | None:
    if limit_ms is None:
        return None
    limit_ns = math.floor(limit_ms * NS_PER_MS)
    good = [path for path in paths if path.end_ns - path.start_ns <= limit_ns]
    share = float(Fraction(len(good), ended)) if ended else None
    return SessionGoodput(limit_ms=limit_ms, good_sessions=len(good), share=share, sessions_per_s=_completed(good, window))
