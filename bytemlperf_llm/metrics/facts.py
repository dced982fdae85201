"""What the metrics must know of a run beyond its records: taken from run.json, nothing else.

A summary is a pure function of the records and of these facts, so that it can be computed again
at any time and gives the same bytes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.units import NS_PER_MS

DEFAULT_PERCENTILES = ("50", "90", "95", "99", "99.9")


class SloMs(msgspec.Struct, frozen=True, kw_only=True):
    """Latency targets in milliseconds, as `--goodput` takes them; None is not asked for."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None
    session: float | None = None

    def finite(self) -> SloMs:
        """Without those that nothing can miss, or nothing meet."""
        limits = msgspec.structs.asdict(self)
        return SloMs(**{name: limit for name, limit in limits.items() if limit is not None and 0 < limit < math.inf})

    def of_requests(self) -> SloMs:
        """Without that of whole sessions."""
        return SloMs(ttft=self.ttft, tpot=self.tpot, e2e=self.e2e)

    def met(self, ttft_ns: int, tpot_ns: int | None, e2e_ns: int) -> bool:
        """Whether a response met every target of requests; one token has no TPOT, and can't miss its target."""
        return (
            (self.ttft is None or ttft_ns <= self.ttft * NS_PER_MS)
            and (self.tpot is None or tpot_ns is None or tpot_ns <= self.tpot * NS_PER_MS)
            and (self.e2e is None or e2e_ns <= self.e2e * NS_PER_MS)
        )


class SessionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of a run of sessions: which answers continue a conversation, and the target rate in sessions/s where there is one."""

    answers: str
    requested_rate: float | None = None


class ClassFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of a class of requests: its share of all, relative to the others', and its service levels."""

    name: str
    share: float
    slo_ms: SloMs


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one run. Times are ns from the run's origin, as in the records.

    `requested_rate` is requests/s, None where no rate was asked for (closed loop, all at once,
    a trace at its own times).
    `scheduled_requests` is None where it isn't known before the end (a closed loop with a
    duration). `loop_utilisation` is the busy share (0 to 1) of the busiest client event loop.
    `ignore_eos` says that every answer was to be exactly as long as asked. `sessions` is there where requests are turns of sessions,
    `classes` where they are of several, `roles` (prefill, decode, …) where servers behind the one that is measured have some.
    """

    open_loop: bool
    process: str = "constant"  # constant, poisson, gamma, closed, at_once, trace
    burstiness: float = 1.0  # gamma's shape: 1 is Poisson, less is burstier
    requested_rate: float | None = None
    scheduled_requests: int | None = None
    max_concurrency: int | None = None
    slo_ms: SloMs = SloMs()
    loop_utilisation: float | None = None
    ignore_eos: bool = False
    percentiles: tuple[str, ...] = DEFAULT_PERCENTILES
    sessions: SessionFacts | None = None
    classes: tuple[ClassFacts, ...] = ()
    roles: tuple[str, ...] = ()


def normalised(facts: RunFacts) -> RunFacts:
    """The same facts as they come out of JSON (5 given for a rate becomes 5.0), so that a live
    summary and a recomputed one have the same bytes."""
    return msgspec.convert(msgspec.to_builtins(facts), RunFacts)


def facts_from(run: dict[str, Any], folder: Path) -> RunFacts:
    """The facts kept in run.json. Raises UserError when they are not there."""
    if run.get("kind") != "llm":
        raise UserError(f"{folder} is a run of kind {run.get('kind')!r}, not of LLM serving", "name a folder of kind llm")
    try:
        return msgspec.convert(run.get("facts"), RunFacts)
    except msgspec.ValidationError as error:
        raise UserError(f"{folder}/run.json is damaged: {error}", "the run can't be summarized without it") from None
