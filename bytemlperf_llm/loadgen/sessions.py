"""One scheduler for sessions: a turn is sent when its parents have ended and its delay is over.

Waiting turns and starts of sessions stand in one heap by the time at which they are due; a turn's `planned_ns` is that time, so that a late
answer makes the next turn due later and a late client is late. Sessions start at the schedule's times (open loop), or as soon as one of so
many users has none (closed loop). A session that has begun goes on to its end, unless the run is stopped. Turns below one that failed are
recorded as dropped at once.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import count, takewhile
from typing import Any, NamedTuple

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.recorder import RequestRecorder
from bytemlperf_llm.loadgen.stamped import make_record
from bytemlperf_llm.loadgen.worker import YIELD_EVERY, Worker
from bytemlperf_llm.plan.scenario import Answers
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload.prefixes import Prefix
from bytemlperf_llm.workload.schedule import PlannedSession
from bytemlperf_llm.workload.sessions.graph import Session, answered
from engines.contract import Decoded, Finish, Message, Request, ToolCall

PARENT_FAILED = "parent failed"
DROPPED = -(1 << 60)  # of what a turn waits for: never nothing
LOOK_NS = 3_600 * NS_PER_S  # nothing is due: the end of an answer ends the wait

TurnRequest = Callable[[Session, int, int, tuple[Message, ...]], Request]
"""Of a session and turn, at a place in the schedule, with its whole prompt."""


class _Running:
    """A session that has begun: what its turns wait for, and the histories that turns to come continue."""

    __slots__ = (
        "children",
        "ends_ns",
        "first_index",
        "followers",
        "heirs",
        "histories",
        "left",
        "prompt_tokens",
        "session",
        "start_ns",
        "waiting",
    )

    def __init__(self, session: Session, first_index: int, start_ns: int) -> None:
        self.session, self.first_index, self.start_ns = session, first_index, start_ns
        self.children, self.followers = session.children(), session.followers()
        self.heirs = [0] * len(session.turns)
        for turn in session.turns:
            if turn.continues is not None:
                self.heirs[turn.continues] += 1
        self.left = len(session.turns)
        self.waiting = [len(turn.before) for turn in session.turns]
        self.ends_ns: dict[int, int] = {}
        self.histories: dict[int, tuple[Message, ...]] = {}
        self.prompt_tokens: dict[int, int] = {}

    def due_ns(self, place: int) -> int:
        """When a turn is due before which all has ended."""
        turn = self.session.turns[place]
        return turn.due_ns(self.start_ns, [self.ends_ns[before] for before in turn.before])

    def prompt(self, place: int) -> tuple[Message, ...]:
        """The whole prompt; kept for as long as turns to come continue it."""
        turn = self.session.turns[place]
        before: tuple[Message, ...] = ()
        if turn.continues is not None:
            before = self.histories[turn.continues]
            self.heirs[turn.continues] -= 1
            if not self.heirs[turn.continues]:
                del self.histories[turn.continues]
        messages = (*before, *self.session.own(place))
        if self.heirs[place]:
            self.histories[place] = messages
        return messages

    def results(self, place: int) -> list[str | None]:
        """The calls that the turn that continues this one begins with results of."""
        turns = self.session.turns
        heirs = [turns[child].messages for child in self.children[place] if turns[child].continues == place]
        return next(filter(None, ([result.tool_call_id for result in takewhile(_is_result, messages)] for messages in heirs)), [])

    def prefix(self, place: int) -> Prefix | None:
        """What begins the prompt and was in an earlier one: of a turn that continues another, as the server counted that one."""
        turn = self.session.turns[place]
        if turn.continues is None:
            return turn.shared
        inherited = Prefix(self.first_index + turn.continues, self.prompt_tokens.get(turn.continues))
        return turn.shared if turn.shared is not None and (turn.shared.tokens or 0) > (inherited.tokens or 0) else inherited


def _is_result(message: Message) -> bool:
    return message.role == "tool"


class SessionWork(NamedTuple):
    """A worker's sessions, how their turns become requests, and which answers continue a conversation."""

    planned: Iterator[PlannedSession]
    request: TurnRequest
    answers: Answers


class SessionWorker(Worker):
    """A worker whose requests are turns of sessions."""

    async def run_sessions(self, work: SessionWork, origin_ns: int, users: int | None, end_ns: int | None = None) -> None:
        """Run them: at their own times where `users` is None, else for so many users until `end_ns`. Then drain."""
        self.origin_ns, self._arrivals, self._request_of = origin_ns, work.planned, work.request
        self._live, self._closed, self._until_ns = work.answers == "live", users is not None, end_ns
        self._running: dict[str, _Running] = {}
        self._due_heap: list[tuple[int, int, _Running | PlannedSession, int]] = []
        self._order = count()
        begin_ns = max(origin_ns, self._now())  # of a run that goes on the origin is long ago
        for _ in range(1 if users is None else users):
            self._next_session(begin_ns)
        while (self._due_heap or self._running) and not self._stop.is_set():
            if self._due_heap and self._due_heap[0][0] <= self._now():
                self._pop()
                if self.issued % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            else:
                await self._pacer.until(self._due_heap[0][0] if self._due_heap else self._now() + LOOK_NS)
        await self._drain()

    def finish(self) -> None:
        """Begin no session more; those that have begun go on to their end."""
        self._arrivals = iter(())
        self._due_heap = [entry for entry in self._due_heap if isinstance(entry[2], _Running)]
        heapq.heapify(self._due_heap)
        self._pacer.wake()

    def _pop(self) -> None:
        due_ns, _, item, place = heapq.heappop(self._due_heap)
        if isinstance(item, _Running):
            self._send(item, place, due_ns)
        else:
            self._begin(item, due_ns)
            self._next_session(due_ns)

    def _push(self, due_ns: int, item: _Running | PlannedSession, place: int = 0) -> None:
        """Let it wait until then; a turn that is due is sent at once."""
        if due_ns <= self._now() and isinstance(item, _Running):
            if not self._stop.is_set():
                self._send(item, place, due_ns)
            return
        heapq.heappush(self._due_heap, (due_ns, next(self._order), item, place))
        if self._due_heap[0][2] is item:
            self._pacer.wake()

    def _next_session(self, now_ns: int) -> None:
        """Take one from the schedule: for a user who has none, or to wait for its time."""
        if self._closed:
            if self._until_ns is None or now_ns < self._until_ns:
                planned = next(self._arrivals, None)
                if planned is not None:
                    self._begin(planned, now_ns)
        elif (planned := next(self._arrivals, None)) is not None:
            assert planned.offset_ns is not None
            self._push(self.origin_ns + planned.offset_ns, planned)

    def _begin(self, planned: PlannedSession, start_ns: int) -> None:
        running = _Running(planned.session, planned.first_index, start_ns)
        self._running[planned.session.id] = running
        for place, turn in enumerate(planned.session.turns):
            if not turn.parents:
                self._push(running.due_ns(place), running, place)

    def _send(self, running: _Running, place: int, due_ns: int) -> None:
        request = self._request_of(running.session, place, running.first_index + place, running.prompt(place))
        self.issued += 1
        self._track(self._one(request, due_ns))

    # -- what follows a record -----------------------------------------------------------

    def _keep(self, record: RequestRecord, text: str, payloads: list[Any]) -> None:
        running = self._running[record.session or ""]
        place = record.turn
        turn = running.session.turns[place]
        record.session_turns, record.parents = len(running.session.turns), list(turn.before)
        self.prefixes[record.index] = running.prefix(place)
        super()._keep(record, text, payloads)
        running.left -= 1
        end_ns = record.end_ns + self.origin_ns
        running.ends_ns[place] = end_ns
        if record.outcome == "ok":
            self._continue(running, place, record, text, payloads)
        elif not self._stop.is_set():
            self._drop_below(running, place, record.end_ns)
        if running.followers:
            self._release(running, running.followers[place])
        if not running.left:
            self._end(running, end_ns)

    def _continue(self, running: _Running, place: int, record: RequestRecord, text: str, payloads: list[Any]) -> None:
        inherited = record.prompt_tokens
        if place in running.histories:
            turn = running.session.turns[place]
            answer = self._live_answer(running, place, text, payloads) if self._live else answered(turn.answer, turn.tool_calls)
            running.histories[place] = (*running.histories[place], answer)
            if inherited is not None and self._live and not record.reasoning_tokens and _says_all(answer, text):
                inherited += record.output_tokens
        if inherited is not None:
            running.prompt_tokens[place] = inherited
        self._release(running, running.children[place])

    def _release(self, running: _Running, places: Iterable[int]) -> None:
        """Turns that wait for one less."""
        for place in places:
            running.waiting[place] -= 1
            if not running.waiting[place]:
                self._push(running.due_ns(place), running, place)

    def _live_answer(self, running: _Running, place: int, text: str, payloads: list[Any]) -> Message:
        """The engine's own answer without its reasoning. Its calls of tools are fed back under the ids of the results that the next turn
        has, where there are as many; else the recorded ones are."""
        spoken: Callable[[list[Any], str], Message] | None = getattr(self._engine, "spoken", None)
        said = answered(text) if spoken is None else spoken(payloads, text)
        results, calls = running.results(place), running.session.turns[place].tool_calls
        if results and len(results) == len(said.tool_calls):
            calls = tuple(ToolCall(id or call.id, call.function) for id, call in zip(results, said.tool_calls, strict=True))
        return answered(_without_thought(said.content), calls)

    def _drop_below(self, running: _Running, place: int, end_ns: int) -> None:
        """Record every turn below that has no record yet."""
        below = [place]
        for parent in below:
            for child in running.children[parent]:
                if running.waiting[child] > 0:
                    running.waiting[child] = DROPPED
                    below.append(child)
        for child in below[1:]:
            running.left -= 1
            running.ends_ns[child] = end_ns + self.origin_ns
            self.issued += 1
            self._sink.started()
            self._sink.ended(self._dropped(running, child, end_ns))
            if running.followers:
                self._release(running, running.followers[child])

    def _dropped(self, running: _Running, place: int, end_ns: int) -> RequestRecord:
        session = running.session
        request = self._request_of(session, place, running.first_index + place, session.own(place))
        record = make_record(request, RequestRecorder(), Finish(), Decoded(tokens_per_chunk=[], text=""), 0, end_ns)
        record.outcome, record.error_detail, record.worker = "dropped", PARENT_FAILED, self._config.worker
        record.session_turns, record.parents = len(session.turns), list(session.turns[place].before)
        return record

    def _end(self, running: _Running, end_ns: int) -> None:
        del self._running[running.session.id]
        if self._closed and not self._stop.is_set():
            self._next_session(end_ns)
        if not self._running:
            self._pacer.wake()


def _without_thought(text: str) -> str:
    """An answer without the reasoning that is marked in it."""
    return text.rpartition("</think>")[2].lstrip() if "</think>" in text else text


def _says_all(answer: Message, text: str) -> bool:
    """Whether a message has all that was streamed."""
    calls = [call.function for call in answer.tool_calls]
    return len(text) == len(answer.content) + sum(len(call.name) + len(call.arguments) for call in calls)
