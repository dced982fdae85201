"""Sessions by hand, and a worker that runs them on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.sessions import SessionWork, SessionWorker
from bytemlperf_llm.loadgen.worker import WorkerConfig
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload.schedule import PlannedSession
from bytemlperf_llm.workload.sessions.graph import Session, Turn
from engines.contract import Finish, Message, Request, Usage
from tests.virtual import MS, Collected, Script, ScriptedEngine, run


def user(text: str) -> Message:
    return Message(role="user", content=text)


def turn(text: str, *parents: int, continues: int | None = None, **fields: Any) -> Turn:
    """A turn that waits for these; it continues the first of them unless `continues` is −1."""
    inherits = (parents[0] if parents else None) if continues is None else None if continues < 0 else continues
    return Turn(messages=(user(text),), max_tokens=4, answer=f"recorded {text}", parents=parents, continues=inherits, **fields)


def chain(name: str, turns: int, delay_ns: int = 0) -> Session:
    """Turns one after the other."""
    return Session(id=name, turns=tuple(turn(f"q{i}", *([i - 1] if i else []), delay_ns=delay_ns if i else 0) for i in range(turns)))


def request(session: Session, place: int, index: int, messages: tuple[Message, ...]) -> Request:
    return Request(
        index=index, id=f"r{index}", max_tokens=session.turns[place].max_tokens, messages=messages, session=session.id, turn=place
    )


class Telling(ScriptedEngine):
    """Keeps the prompts that it was sent, reports their words as tokens, and answers `Telling.says` in place of what is scripted."""

    says = "spoken"

    def __init__(self, scripts: Sequence[Script]) -> None:
        super().__init__(scripts)
        self.prompts: dict[int, list[str]] = {}
        self.requests: dict[int, Request] = {}

    async def generate(self, request: Request, recorder: Any) -> Finish:
        self.requests[request.index] = request
        self.prompts[request.index] = [message.content for message in request.messages or ()]
        await super().generate(request, recorder)
        words = sum(len(text.split()) for text in self.prompts[request.index])
        return Finish(reason="length", usage=Usage(prompt_tokens=words, output_tokens=4, cached_tokens=words // 2))

    def decode(self, payloads: Sequence[Any]) -> Any:
        decoded = super().decode(payloads)
        decoded.text = self.says
        return decoded


def replay(
    sessions: Iterable[tuple[Session, int | None]],
    scripts: Sequence[Script],
    *,
    users: int | None = None,
    end_ns: int | None = None,
    answers: str = "recorded",
    stop_ns: int | None = None,
    slots: int | None = None,
    timeouts: Timeouts | None = None,
) -> tuple[list[RequestRecord], Telling]:
    """The records by index, and the engine that was asked."""
    firsts, planned = 0, []
    for session, offset_ns in sessions:
        planned.append(PlannedSession(session, firsts, offset_ns))
        firsts += len(session.turns)

    async def main(loop: Any) -> tuple[list[RequestRecord], Telling]:
        engine, sink = Telling(scripts), Collected()
        config = WorkerConfig(timeouts=timeouts or Timeouts(), max_concurrency=slots, drain_ns=30 * NS_PER_S)
        worker = SessionWorker(engine, sink, Pacer(loop.now_ns), config, now=loop.now_ns)
        if stop_ns is not None:
            loop.call_later(stop_ns / NS_PER_S, worker.stop)
        await worker.run_sessions(SessionWork(iter(planned), request, answers), 0, users, end_ns)  # type: ignore[arg-type]
        assert sink.in_flight == 0
        assert worker.issued == len(sink.records)
        return sink.by_index(), engine

    return run(main)


ANSWER = Script(((10 * MS, 1), (40 * MS, 3)), reported_tokens=4)
"""40 ms from sending to the end."""
BROKEN = Script((), error="http_5xx")
