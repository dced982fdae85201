"""What a search asks and answers. The answer follows from the question and the probes, so that it is written after every one of them
(capacity.json), computed again by `bmp summarize`, and gone on with by `--resume`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.folder import part
from bytemlperf_llm.capacity.cost import NO_RATES, Cost, Hardware, Rates, cost_of
from bytemlperf_llm.capacity.judge import NO_ERRORS, Errors, Look, Outcome
from bytemlperf_llm.capacity.probe import Probe, Purpose
from bytemlperf_llm.capacity.search import Goal, Search

STOPPED = {
    "within": "the interval is as narrow as requested",
    "requests": "the requests are spent, or what is left can't narrow it",
    "client": "your client is the limit",
    "nothing holds": "even the lowest load fails",
    "interrupted": "interrupted; resume it with --resume",
    "server": "the server no longer responds; resume with --resume once it does",
    "killed": "the search was killed or is still in progress; resume it with --resume",
}
By = Literal["rate", "concurrency", "sessions", "session_rate"]
Judged = Literal["requests", "turns", "sessions"]
UNITS: dict[By, str] = {"rate": "requests/s", "concurrency": "in flight", "sessions": "users", "session_rate": "sessions/s"}
ENDS: dict[By, str] = {"rate": "rps", "concurrency": "concurrency", "sessions": "users", "session_rate": "sessions_per_s"}
"""How the answer's keys end."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, as run.json keeps it. `slo_ms` are the service levels (ttft, tpot, e2el, session), and `judged` what meets or
    misses them."""

    goal: Goal
    slo_ms: dict[str, float]
    first_load: float
    by: By = "rate"
    judged: Judged = "requests"
    hardware: Hardware = Hardware()

    @property
    def levels(self) -> str:
        """As they are typed."""
        return " ".join(f"{name}:{limit:g}" for name, limit in self.slo_ms.items())

    def load_text(self, load: float) -> str:
        return f"{load:.4g} {UNITS[self.by]}"


class ProbeRow(Look, frozen=True, kw_only=True):
    """One probe: what it said, its run folder (inside the search's), and the share that `met` each level. `unjudged` says
    why it counts for nothing (stopped, or the server died); it is listed all the same."""

    folder: str
    load: float
    purpose: Purpose
    client_limited: str = ""
    errors: Errors = NO_ERRORS
    met: dict[str, float] = msgspec.field(default_factory=dict)
    rates: Rates = NO_RATES
    unjudged: str = ""

    @classmethod
    def of(cls, folder: str, probe: Probe, met: dict[str, float], rates: Rates) -> ProbeRow:
        look: dict[str, Any] = msgspec.structs.asdict(probe.look) | {"outcome": probe.outcome}
        look |= {"purpose": probe.purpose, "client_limited": probe.client_limited, "errors": probe.errors, "met": met, "rates": rates}
        return cls(**look, folder=folder, load=probe.load)

    @classmethod
    def not_judged(cls, folder: str, load: float, purpose: Purpose, requests: int, why: str) -> ProbeRow:
        nothing = Look(Outcome.UNRESOLVED, requests, judged=0, missed=0.0, worth=0.0, steady=False, overloaded=False)
        return cls(**msgspec.structs.asdict(nothing), folder=folder, load=load, purpose=purpose, unjudged=why)

    def probe(self) -> Probe:
        return Probe(self.load, self, self.purpose, self.client_limited, self.errors)

    @property
    def note(self) -> str:
        """What is to be said beside its outcome."""
        state = "overloaded" if self.overloaded else "" if self.steady else "unsteady"
        return (
            self.unjudged
            or ("client-limited" if self.client_limited else "")
            or state
            or ("confirming" if self.purpose is Purpose.CONFIRM else "")
        )


class Capacity(msgspec.Struct, kw_only=True):
    """capacity.json, beside verdict and reasons. `margins` are how far above `share` those that met each level are, at the load that holds.
    `requests` are what `judged` says, here and in the probes."""

    format_version: int = 2
    kind: str = "capacity"
    by: By
    holds_at_rps: float | None = None
    fails_at_rps: float | None = None
    holds_at_concurrency: int | None = None
    fails_at_concurrency: int | None = None
    holds_at_users: int | None = None
    fails_at_users: int | None = None
    holds_at_sessions_per_s: float | None = None
    fails_at_sessions_per_s: float | None = None
    judged: Judged = "requests"
    share: float
    confidence: float
    slo_ms: dict[str, float]
    goal: Goal
    binding: str | None = None
    margins: dict[str, float] = {}
    cost: Cost | None = None
    stopped_because: str = ""
    requests: int = 0
    confirmed: ProbeRow | None = None
    probes: list[ProbeRow] = []

    @property
    def holds_at(self) -> float | None:
        """The highest load that holds, whatever it is counted in."""
        return self._end("holds")

    @property
    def fails_at(self) -> float | None:
        return self._end("fails")

    def _end(self, side: str) -> float | None:
        end: float | None = getattr(self, f"{side}_at_{ENDS[self.by]}")
        return end


def search_of(question: Question, rows: list[ProbeRow]) -> Search:
    aside = sum(row.requests for row in rows if row.unjudged)
    return Search(question.goal, question.first_load, [row.probe() for row in rows if not row.unjudged], aside)


def capacity_of(question: Question, rows: list[ProbeRow], stopped_because: str) -> Capacity:
    search, goal = search_of(question, rows), question.goal
    low, high = search.holds_at, search.fails_at
    held = _row(rows, low, Outcome.HOLDS)
    judged = _row(rows, high, Outcome.FAILS) or held
    confirmed = next((row for row in reversed(rows) if row.purpose is Purpose.CONFIRM and row.load == low and not row.unjudged), None)
    sides = {"holds": low, "fails": high}
    ends: dict[str, Any] = {f"{side}_at_{ENDS[question.by]}": int(end) if end and goal.whole else end for side, end in sides.items()}
    return Capacity(
        by=question.by,
        **ends,
        judged=question.judged,
        share=goal.share,
        confidence=goal.confidence,
        slo_ms=question.slo_ms,
        goal=goal,
        binding=min(judged.met, key=lambda name: judged.met[name]) if judged is not None and judged.met else None,
        margins={} if held is None else {name: round(met - goal.share, 6) for name, met in held.met.items()},
        cost=None if held is None else cost_of((confirmed or held).rates, question.hardware),
        stopped_because=stopped_because,
        requests=search.requests,
        confirmed=confirmed,
        probes=rows,
    )


def _row(rows: list[ProbeRow], load: float | None, outcome: Outcome) -> ProbeRow | None:
    return next((row for row in reversed(rows) if row.load == load and row.outcome is outcome), None)


def question_of(run: dict[str, Any]) -> Question:
    """What run.json says was asked. Raises UserError."""
    try:
        return msgspec.convert(part(run, "config").get("search"), Question)
    except msgspec.ValidationError as error:
        raise UserError(f"run.json holds no search: {error}", "start a new one") from None


def stopped_because(run: dict[str, Any]) -> str:
    """By run.json's end; a search without one was killed."""
    end = run.get("end")
    if not isinstance(end, dict):
        return "killed"
    return "interrupted" if end.get("stopped_by_user") else str(end.get("stopped_because") or end.get("failure") or "killed")
