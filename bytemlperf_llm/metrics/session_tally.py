"""Records of turns in, sessions out: how long each took, and what its critical path was made of.

The critical path of a session goes back from the turn that ended last, each time to the parent that ended last. From a turn's end to its
sending is the model's time; from there to when it was due is queueing in the client; from there to the parent's end is
the tool's (or the user's: think time). The three sum to the session's whole time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from bytemlperf_llm.record.record import Outcome, RequestRecord


class TurnEnd(NamedTuple):
    """What is kept of a turn's record; times are ns from the run's origin."""

    turn: int
    parents: tuple[int, ...]
    planned_ns: int | None
    sent_ns: int | None
    end_ns: int
    outcome: Outcome


class Path(NamedTuple):
    """A session's whole time and its parts on the critical path, ns."""

    start_ns: int
    end_ns: int
    model_ns: int
    tool_ns: int
    queue_ns: int


class SessionTally:
    """The turns of sessions, in any order."""

    def __init__(self) -> None:
        self._turns: dict[str, list[TurnEnd]] = {}
        self._sizes: dict[str, int] = {}
        self.dropped_turns = 0

    def add_all(self, records: Iterable[RequestRecord]) -> None:
        """Take in those of sessions."""
        for record in records:
            if record.session_turns and record.session is not None:
                self._add(record, record.session)

    def _add(self, record: RequestRecord, session: str) -> None:
        kept = TurnEnd(record.turn, tuple(record.parents), record.planned_ns, record.sent_ns, record.end_ns, record.outcome)
        self._turns.setdefault(session, []).append(kept)
        self._sizes[session] = record.session_turns
        self.dropped_turns += record.outcome == "dropped" and bool(record.parents) and record.planned_ns is None

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def turns(self) -> int:
        return sum(map(len, self._turns.values()))

    def outcome_of(self, session: str) -> str:
        """`ok`, `failed` (a turn failed), or `cut` (the run ended before it did)."""
        outcomes = {turn.outcome for turn in self._turns[session]}
        if outcomes & {"failed", "dropped"}:
            return "failed"
        return "ok" if outcomes == {"ok"} and len(self._turns[session]) == self._sizes[session] else "cut"

    def outcomes(self) -> dict[str, int]:
        """How many sessions ended how."""
        counts = dict.fromkeys(("ok", "failed", "cut"), 0)
        for session in self._turns:
            counts[self.outcome_of(session)] += 1
        return counts

    def starts(self) -> list[int]:
        """When each session's first turn was due, in order."""
        due = ([turn.planned_ns for turn in turns if turn.planned_ns is not None] for turns in self._turns.values())
        return sorted(min(times) for times in due if times)

    def ends(self) -> list[int]:
        """When each session's last turn ended, in order."""
        return sorted(max(turn.end_ns for turn in turns) for turns in self._turns.values())

    def spans(self) -> list[tuple[int, float]]:
        """Start and end of sessions that didn't fail, in the order of their starts; one that was cut never ends."""
        spans = list[tuple[int, float]]()
        for session, turns in self._turns.items():
            due, outcome = [turn.planned_ns for turn in turns if turn.planned_ns is not None], self.outcome_of(session)
            if due and outcome != "failed":
                spans.append((min(due), max(turn.end_ns for turn in turns) if outcome == "ok" else math.inf))
        return sorted(spans)

    def paths(self) -> list[Path]:
        """Of the sessions that went well, in the order of their starts."""
        found = [critical_path(turns) for session, turns in self._turns.items() if self.outcome_of(session) == "ok"]
        return sorted(path for path in found if path is not None)


def critical_path(turns: Iterable[TurnEnd]) -> Path | None:
    """Of a session whose turns all were sent; None where a stamp is missing."""
    by_turn = {turn.turn: turn for turn in turns}
    start_ns = min((turn.planned_ns for turn in by_turn.values() if turn.planned_ns is not None), default=None)
    at = max(by_turn.values(), key=lambda turn: (turn.end_ns, turn.turn))
    end_ns, model_ns, tool_ns, queue_ns = at.end_ns, 0, 0, 0
    while start_ns is not None and at.planned_ns is not None and at.sent_ns is not None:
        parents = [by_turn[parent] for parent in at.parents if parent in by_turn]
        before_ns = max((parent.end_ns for parent in parents), default=start_ns)
        model_ns, queue_ns, tool_ns = (
            model_ns + at.end_ns - at.sent_ns,
            queue_ns + at.sent_ns - at.planned_ns,
            tool_ns + at.planned_ns - before_ns,
        )
        if not parents:
            return Path(start_ns, end_ns, model_ns, tool_ns, queue_ns)
        at = max(parents, key=lambda turn: (turn.end_ns, turn.turn))
    return None
