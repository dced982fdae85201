"""Live answers over HTTP: what a server streams beside its content, and what it gets back with the next turn."""

from __future__ import annotations

import json
from typing import Any

from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.sessions import SessionWork, SessionWorker
from bytemlperf_llm.loadgen.worker import WorkerConfig
from bytemlperf_llm.workload.schedule import PlannedSession
from bytemlperf_llm.workload.sessions.graph import Session, Turn
from engines.contract import Function, Message, Model, ToolCall
from engines.openai.engine import OpenAIEngine
from tests.engines.small_server import END, USAGE, Asked, answering, models, page
from tests.sessions.graphs import request, turn, user
from tests.virtual import Collected


def streamed(*deltas: dict[str, Any]) -> bytes:
    events = [*({"choices": [{"index": 0, "delta": delta}]} for delta in deltas), END, USAGE]
    return page(
        "200 OK", b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n", kind="text/event-stream"
    )


def thoughtful(asked: Asked) -> bytes:
    """Thinks, says a word, calls a tool; after its result it only talks."""
    if asked.method == "GET":
        return models("m")
    if len(asked.body["messages"]) > 1:
        return streamed({"reasoning_content": "more"}, {"content": "it is"}, {"content": " 42"})
    first = {"index": 0, "id": "call_live", "type": "function", "function": {"name": "look", "arguments": ""}}
    return streamed(
        {"reasoning": "hm"}, {"content": "wait"}, {"tool_calls": [first]}, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
    )


async def test_a_server_gets_its_calls_and_content_back_without_its_reasoning() -> None:
    recorded = (ToolCall("r1", Function("other", '{"x": 1}')),)
    result = Message("tool", "42", tool_call_id="r1")
    answered = Turn(messages=(result,), max_tokens=4, answer="recorded", parents=(0,), continues=0)
    last = Turn(messages=(user("thanks"),), max_tokens=4, answer="", parents=(1,), continues=1)
    session = Session(id="a", turns=(turn("q0", tool_calls=recorded), answered, last))
    async with answering(thoughtful) as server:
        engine, sink = OpenAIEngine(), Collected()
        await engine.start(Model(name="m"), {"base_url": server.url})
        worker = SessionWorker(engine, sink, Pacer(monotonic_ns), WorkerConfig())
        await worker.run_sessions(SessionWork(iter([PlannedSession(session, 0, 0)]), request, "live"), monotonic_ns(), None)
        await engine.close()
    assert [record.outcome for record in sink.by_index()] == ["ok"] * 3
    call = {"type": "function", "id": "r1", "function": {"name": "look", "arguments": "{}"}}
    assert [asked.body["messages"] for asked in server.seen if asked.method == "POST"][2] == [
        {"role": "user", "content": "q0"},
        {"role": "assistant", "content": "wait", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "r1"},
        {"role": "assistant", "content": "it is 42"},
        {"role": "user", "content": "thanks"},
    ]
