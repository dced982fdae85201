"""Conversations of agents whose messages are there: MLPerf's rows, and OpenTelemetry's spans."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.errors import UserError
from engines.contract import Function, Message, ToolCall
from tests.sessions.test_files import THINK_MS, said, sessions_of, texts, written
from tests.virtual import MS

TOOL = {"id": "c", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
CALLED = Message("assistant", "", (ToolCall("c", Function("ls", "{}")),))
DEFINED = [{"type": "function", "function": {"name": "ls", "parameters": {}}}]


def row(turn: int, role: str, content: object = None, name: str = "c1", **more: Any) -> dict[str, Any]:
    return {"conversation_id": name, "turn": turn, "role": role, "content": content, **more}


MLPERF = [
    {"_type": "dataset_metadata", "version": 1},
    row(1, "user", "list", system="be short", tools=DEFINED, delay_seconds=0.4),
    row(2, "assistant", None, tool_calls=[TOOL], reasoning_content="hm"),
    row(3, "tool", None, tool_results=[{"tool_call_id": "c", "content": "a"}, {"tool_call_id": "d", "content": "b"}], delay_seconds=1.2),
    row(4, "assistant", "two files", tool_results=[{"tool_call_id": "c", "content": "a"}] * 2),
    row(5, "user", "thanks", max_new_tokens=9),
    row(1, "user", "hello", name="c2"),
]


def test_mlperf_rows(tmp_path: Path) -> None:
    first, second = sessions_of(written(tmp_path, *MLPERF), "mlperf_agentic")
    assert (first.id, second.id, len(second.turns)) == ("c1", "c2", 1)
    assert [(turn.delay_ns // MS, turn.max_tokens, turn.continues) for turn in first.turns] == [(400, 2, None), (1200, 2, 0), (0, 9, 1)]
    assert texts(first, 0) == ["system: be short", "user: list"]
    assert first.prompt(1)[2:] == (CALLED, Message("tool", "a", tool_call_id="c"), Message("tool", "b", tool_call_id="d"))
    assert [json.loads(turn.tools) for turn in first.turns] == [DEFINED] * 3
    assert texts(first, 2)[-2:] == ["assistant: two files", "user: thanks"]


def messages(*told: tuple[str, str]) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in told])


def span(start: str, end: str, told: object, tokens: int = 3, **more: Any) -> dict[str, Any]:
    day = "2026-01-01T00:00:"
    attributes = {"gen_ai.input.messages": told, "gen_ai.usage.input_tokens": 1, "gen_ai.usage.output_tokens": tokens}
    return {
        "type": "llm_call",
        "name": "chat m",
        "start_time": f"{day}{start}Z",
        "end_time": f"{day}{end}Z",
        "attributes": attributes,
        **more,
    }


ONE = (("system", "s"), ("user", "plan"))
SPANS = {
    "session_id": "s1",
    "spans": [
        {"name": "agent", "start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T00:01:00Z", "attributes": {}},
        span("00", "20", messages(("user", "all of it")), type="agent"),
        span("00", "02", messages(*ONE)),
        span("05.5", "09", messages(("user", "search b"))),
        span("04", "08", messages(("user", "search a"))),
        span("05", "06", messages(("user", "down")), status={"code": 2}),
        span("10", "11", messages(*ONE, ("assistant", "search"), ("user", "found")), tokens=7),
    ],
}


def test_spans_wait_for_those_that_had_ended(tmp_path: Path) -> None:
    [session] = sessions_of(written(tmp_path, SPANS), "otel_spans")
    assert [(turn.parents, turn.continues, turn.delay_ns // MS, turn.max_tokens) for turn in session.turns] == [
        ((), None, 0, 3),
        ((0,), None, 2000, 3),
        ((0,), None, 3500, 3),
        ((1, 2, 0), 0, 1000, 7),
    ]
    assert texts(session, 3) == ["system: s", "user: plan", "assistant: search", "user: found"]


def test_parts_of_spans(tmp_path: Path) -> None:
    told = [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "parts": [{"type": "thinking", "content": "hm"}, {"type": "tool_call", "id": "c", "name": "ls", "arguments": {}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "result": {"files": 2}}]},
    ]
    pretty = tmp_path / "spans.json"
    calls = [span("00", "01", told[:1]), span("02", "03", told)]
    calls[1]["attributes"]["gen_ai.tool.definitions"] = json.dumps([{"type": "function", "name": "ls", "parameters": {}}])
    pretty.write_text(json.dumps({"spans": calls}, indent=2), encoding="utf-8")
    [session] = sessions_of(pretty, "otel_spans")
    assert session.id == "spans.json-1"
    assert session.prompt(1) == (Message("user", "go"), CALLED, Message("tool", '{"files":2}', tool_call_id="c"))
    assert json.loads(session.turns[1].tools) == DEFINED


def test_a_trace_without_calls_is_left_out(tmp_path: Path) -> None:
    empty = {"session_id": "e", "spans": SPANS["spans"][:1]}
    assert [session.id for session in sessions_of(written(tmp_path, empty, SPANS), "otel_spans")] == ["s1"]


@pytest.mark.parametrize(
    ("form", "rows", "message"),
    [
        ("mlperf_agentic", [row(1, "user", "a"), row(1, "tool", "b")], ":2: turn: 1 comes after 1"),
        ("mlperf_agentic", [row(1, "user", "a"), row(1, "user", "b", name="x"), row(2, "user", "c")], ":3: session id 'c1' is there twice"),
        ("mlperf_agentic", [row(1, "user", "a", delay_seconds=-1)], ":1: delay_seconds: Expected `float` >= 0.0"),
        ("mlperf_agentic", [{"turn": 1, "role": "user"}], ":1: conversation_id: it is missing"),
        ("mlperf_agentic", [row(1, "robot", "a")], ":1: role: Invalid enum value 'robot'"),
        ("mlperf_agentic", [row(1, "assistant", "a")], "session 'c1': it has no turn"),
        (
            "otel_spans",
            [{"session_id": "s", "spans": [span("05", "04", messages(*ONE))]}],
            ":1: session 's': spans[0]: it has no time from start",
        ),
        ("otel_spans", [{"session_id": "s", "spans": [span("00", "04", "[")]}], "spans[0]: messages or tools: not JSON"),
        ("otel_spans", [{"session_id": "s"}], ":1: spans: Object missing required field `spans`"),
        ("otel_spans", [{"session_id": "s", "spans": [span("00", "04", [])]}], "session 's': turn '0' has no message"),
        (
            "otel_spans",
            [{"session_id": "s", "spans": [span("00", "04", [{"role": "tool", "content": {"a": "\ud800"}}])]}],
            "spans[0]: not UTF-8 text",
        ),
        ("otel_spans", [SPANS, SPANS], ":2: session id 's1' is there twice"),
    ],
)
def test_rows_that_cant_be_meant(tmp_path: Path, form: str, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        sessions_of(written(tmp_path, *rows), form)


def test_think_time_of_the_scenario_is_for_files_without_delays(tmp_path: Path) -> None:
    [session] = sessions_of(
        written(tmp_path, {"messages": [said("user", "a"), said("assistant", "b"), said("user", "c")]}), "openai_messages"
    )
    assert [turn.delay_ns for turn in session.turns] == [0, THINK_MS * MS]
