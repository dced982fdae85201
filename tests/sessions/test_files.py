"""Files of sessions, read as they are: each becomes the graph that its format means, or one line that names what can't be meant."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import Scenario, load
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.schedule import Schedule
from bytemlperf_llm.workload.sessions.graph import Session
from bytemlperf_llm.workload.trace_prompts import TraceEnded
from engines.contract import Function, Message, ToolCall
from tests.virtual import MS
from tests.workload.tokenizers import byte_tokenizer

THINK_MS = 250


def scenario(path: Path, form: str, **sessions: Any) -> Scenario:
    keys = {"format": form, "file": str(path), "think_ms": {"distribution": "constant", "value": THINK_MS}, **sessions}
    output = {"distribution": "constant", "value": 7}
    prompts = {"sessions": keys, "tokenizer": "words"}
    return load("chat-multiturn").override({"prompts": prompts, "output_tokens": output, "num_sessions": None})


def sessions_of(path: Path, form: str, **keys: Any) -> list[Session]:
    found = Workload(scenario(path, form, **keys), 0).sessions
    assert found is not None
    sessions: list[Session] = []
    try:
        while True:
            sessions.append(found.session(len(sessions)))
    except TraceEnded:
        return sessions


def written(folder: Path, *rows: object) -> Path:
    path = folder / "sessions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(role: str, content: object, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def texts(session: Session, place: int) -> list[str]:
    return [f"{message.role}: {message.content}" for message in session.prompt(place)]


def test_sharegpt_is_read_with_all_its_turns(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    told = [("gpt", "hi"), ("human", "one"), ("gpt", "a b c"), ("human", "two"), ("gpt", "d"), ("human", "unanswered")]
    value = [
        {"id": "x", "conversations": [{"from": who, "value": text} for who, text in told]},
        {"id": "y", "conversations": [{"from": "human", "value": "alone"}]},
        {"id": "z", "conversations": "none"},
    ]
    path.write_text(json.dumps(value), encoding="utf-8")
    [session] = sessions_of(path, "sharegpt_turns")
    assert [turn.max_tokens for turn in session.turns] == [3, 1]
    assert texts(session, 1) == ["user: one", "assistant: a b c", "user: two"]
    assert [turn.delay_ns for turn in session.turns] == [0, THINK_MS * MS]
    workload = Workload(scenario(path, "sharegpt_turns"), 0)
    assert len(list(workload)) == 2
    assert workload.sessions is not None
    assert workload.sessions.report.left_out == 2


def test_openai_messages_and_batch_lines(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    chat = [
        said("developer", "be short"),
        said("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        said("assistant", None, tool_calls=[call]),
        said("tool", "42", tool_call_id="c"),
        said("assistant", "it is 42"),
        said("user", "thanks"),
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = {"messages": chat[:2], "max_tokens": 5, "tools": tools}
    batch = {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": body}
    first, second = sessions_of(written(tmp_path, {"messages": chat}, batch), "openai_messages")
    assert texts(first, 0) == ["developer: be short", "user: ab"]
    called = Message("assistant", "", (ToolCall("c", Function("f", '{"x":1}')),))
    assert first.prompt(1)[2:] == (called, Message("tool", "42", tool_call_id="c"))
    assert texts(first, 2)[-2:] == ["assistant: it is 42", "user: thanks"]
    assert [turn.max_tokens for turn in first.turns] == [2, 3, 7]
    assert (second.id, second.turns[0].max_tokens, json.loads(second.turns[0].tools)) == ("b", 5, tools)


def test_calls_that_the_chat_template_leaves_out_are_counted(tmp_path: Path) -> None:
    call = {"id": "c", "function": {"name": "f"}}
    path = written(tmp_path, {"messages": [said("user", "x"), said("assistant", None, tool_calls=[call]), said("tool", "42")]})
    for template, left_out in ((None, 0), ("{% for message in messages %}{{ message.content }}{% endfor %}", 1)):
        plan = scenario(path, "openai_messages").override({"prompts.tokenizer": byte_tokenizer(tmp_path / str(left_out), template)})
        found = Workload(plan, 0).sessions
        assert found is not None
        assert found.report.without_calls == left_out


def test_older_calls_become_newer_ones(tmp_path: Path) -> None:
    chat = [
        said("user", "x"),
        said("assistant", None, function_call={"name": "f", "arguments": "{}"}),
        said("function", "42", name="f"),
    ]
    [session] = sessions_of(written(tmp_path, {"messages": chat}), "openai_messages")
    called = Message("assistant", "", (ToolCall("f", Function("f", "{}")),))
    assert session.prompt(1)[1:] == (called, Message("tool", "42", tool_call_id="f"))


def test_tools_hold_for_the_turns_that_follow(tmp_path: Path) -> None:
    tools = [{"type": "function"}]
    turns = [dag_turn("a", tools=tools), dag_turn("b"), dag_turn("c", tools=[{"type": "other"}], spawns=["fresh"])]
    lines = [{"session_id": "main", "turns": turns}, {"session_id": "fresh", "turns": [dag_turn("d")]}]
    [session] = sessions_of(written(tmp_path, *lines), "dag_jsonl")
    assert [turn.tools for turn in session.turns] == ['[{"type":"function"}]'] * 2 + ['[{"type":"other"}]', ""]
    one = sessions_of(written(tmp_path, {"session_id": "a", "text_input": "x", "tools": tools}), "mooncake_sessions")[0]
    assert one.turns[0].tools == '[{"type":"function"}]'


def test_mooncake_rows_of_a_session_stand_anywhere(tmp_path: Path) -> None:
    first = [said("user", "one")]
    rows = [
        {"session_id": "a", "timestamp": 1000, "messages": first, "output_length": 9},
        {"session_id": "b", "timestamp": 1500.5, "text_input": "alone", "output_length": 2},
        {"session_id": "a", "delay": 20, "messages": [*first, said("assistant", "yes"), said("user", "two")], "output_length": 3},
        {"session_id": "a", "delay": 30, "messages": [said("user", "other")], "output_length": 4},
    ]
    a, b = sessions_of(written(tmp_path, *rows), "mooncake_sessions", time_scale=2.0)
    assert [(turn.max_tokens, turn.delay_ns, turn.parents, turn.continues) for turn in a.turns] == [
        (9, 0, (), None),
        (3, 40 * MS, (0,), 0),
        (4, 60 * MS, (1,), None),
    ]
    assert texts(a, 1) == ["user: one", "assistant: yes", "user: two"]
    assert texts(a, 2) == ["user: other"]
    assert (a.at_ns, b.at_ns) == (0, 1001 * MS)


def test_sessions_start_in_the_order_of_their_times(tmp_path: Path) -> None:
    rows = [{"session_id": name, "text_input": name, "output_length": 1, "timestamp": at} for name, at in (("b", 70), ("a", 20), ("c", 90))]
    sessions = sessions_of(written(tmp_path, *rows), "mooncake_sessions")
    assert [(session.id, session.at_ns) for session in sessions] == [("a", 0), ("b", 50 * MS), ("c", 70 * MS)]


def test_lmcache_inputs_extend_each_other(tmp_path: Path) -> None:
    begun = [said("system", "s"), said("user", "one")]
    rows = [
        {"session_id": "a", "model": "m", "input": begun, "output_length": 4, "pre_gap": 0},
        {"session_id": "a", "input": [*begun, said("assistant", "ok"), said("tool", "r")], "output_length": 2, "pre_gap": 1.5},
    ]
    [session] = sessions_of(written(tmp_path, *rows), "lmcache_agentic")
    assert texts(session, 1) == ["system: s", "user: one", "assistant: ok", "tool: r"]
    assert (session.turns[1].delay_ns, session.turns[1].continues) == (1500 * MS, 0)


def dag_turn(text: str, **fields: object) -> dict[str, object]:
    return {"messages": [said("user", text)], "max_tokens": 4, **fields}


DAG: list[dict[str, Any]] = [
    {
        "session_id": "main",
        "turns": [
            dag_turn("m0", spawns=["sub", {"children": ["slow"], "join_at": 2}]),
            dag_turn("m1", delay=100, forks=[{"child": "side", "background": True}]),
            dag_turn("m2"),
        ],
        "pre_session_spawns": ["early"],
    },
    {"session_id": "sub", "turns": [dag_turn("s0"), dag_turn("s1")]},
    {"session_id": "slow", "turns": [dag_turn("w0")]},
    {"session_id": "side", "turns": [dag_turn("f0")]},
    {"session_id": "early", "turns": [dag_turn("e0")]},
    {"session_id": "other", "turns": [dag_turn("o0")]},
]


def test_dag_jsonl_forks_spawns_and_joins(tmp_path: Path) -> None:
    main, other = sessions_of(written(tmp_path, *DAG), "dag_jsonl")
    assert (main.id, other.id, len(other.turns)) == ("main", "other", 1)
    names = [turn.messages[0].content for turn in main.turns]
    graph = {
        names[place]: ([names[parent] for parent in turn.parents], None if turn.continues is None else names[turn.continues])
        for place, turn in enumerate(main.turns)
    }
    assert graph == {
        "m0": ([], None),
        "s0": (["m0"], None),
        "s1": (["s0"], "s0"),
        "w0": (["m0"], None),
        "m1": (["m0", "s1"], "m0"),
        "f0": (["m1"], "m1"),
        "m2": (["m1", "w0"], "m1"),
        "e0": ([], None),
    }
    assert main.turns[names.index("m1")].delay_ns == 100 * MS
    assert [line.partition(" ")[2] for line in texts(main, names.index("f0"))][::2] == ["m0", "m1", "f0"]


def changed(**lines: dict[str, Any]) -> list[dict[str, Any]]:
    return [line | lines.get(line["session_id"], {}) for line in DAG]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*DAG, DAG[5]], ":7: session_id: 'other' is in line 6 already"),
        (changed(other={"turns": [dag_turn("o", spawns=["nowhere"])]}), ":6: turns: there is no session 'nowhere'"),
        (changed(other={"turns": [dag_turn("o", spawns=["sub"])]}), ":6: turns: 'sub' is named twice"),
        (changed(other={"turns": [dag_turn("o", spawns=["other"])]}), ":6: session_id: 'other' is below itself"),
        (changed(other={"turns": [dag_turn("o", delay=-1)]}), ":6: turns[0].delay: Expected `float` >= 0.0"),
        (
            changed(main={"turns": [dag_turn("m", forks=["sub"]), dag_turn("n")], "pre_session_spawns": []}),
            "ends the parent, which has more",
        ),
        (changed(other={"turns": [dag_turn("o", spawns=[{"children": ["x"], "join_at": 0}])]}), "0 is no later turn of the 1"),
    ],
)
def test_dag_lines_that_cant_be_meant(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        sessions_of(written(tmp_path, *rows), "dag_jsonl")


@pytest.mark.parametrize(
    ("form", "rows", "message"),
    [
        ("openai_messages", [{"id": "a", "messages": [said("user", "x")]}] * 2, ":2: session id 'a' is there twice"),
        ("openai_messages", [{"prompt": "x"}], ":1: messages: there are none"),
        ("openai_messages", [{"messages": [said("user", [{"type": "image_url", "image_url": {}}])]}], "messages[0].content[0].image_url"),
        ("openai_messages", [{"messages": [said("user", [{"type": "audio", "text": "x"}])]}], "messages[0].content[0].type"),
        ("openai_messages", [{"id": "a", "messages": [said("system", "x")]}], "session 'a': it has no turn"),
        ("openai_messages", [{"messages": [said("assistant", "", tool_calls=7)]}], ":1: messages[0].tool_calls: Expected `array"),
        ("openai_messages", [{"messages": [said("critic", "")]}], ":1: messages[0].role: Invalid enum value 'critic'"),
        ("mooncake_sessions", [{"session_id": "a", "text_input": "x", "tools": "f"}], ":1: tools: Expected `array"),
        ("mooncake_sessions", [{"session_id": "a", "delay": 5}], "exactly one of messages, input, text_input and input_length"),
        ("mooncake_sessions", [{"session_id": "a", "text_input": "x", "delay": -1}], ":1: delay: '-1' is not a time"),
        ("lmcache_agentic", [{"input": []}], ":1: session_id"),
        ("lmcache_agentic", [{"session_id": "a", "input": []}], ":1: session 'a': turn '0' has no message"),
    ],
)
def test_rows_that_cant_be_meant(tmp_path: Path, form: str, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        sessions_of(written(tmp_path, *rows), form)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "type", "function", "name", "arguments"]), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(calls=JSON_VALUES, tools=JSON_VALUES)
def test_calls_and_tools_of_any_shape_are_read_or_named_with_their_row(
    tmp_path_factory: pytest.TempPathFactory, calls: object, tools: object
) -> None:
    chat = [said("user", "x"), said("assistant", "y", tool_calls=calls), said("tool", "z")]
    path = written(tmp_path_factory.mktemp("any"), {"messages": chat[:1]}, {"messages": chat, "tools": tools})
    problem = ""
    try:
        sessions_of(path, "openai_messages")
    except UserError as error:
        problem = error.cause
    assert re.fullmatch(rf"({re.escape(str(path))}:2: (messages\[1\]\.tool_calls|tools).*)?", problem)


def test_a_file_without_a_conversation(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    path.write_text('[{"conversations": []}]', encoding="utf-8")
    with pytest.raises(UserError, match="no session with a question and an answer"):
        sessions_of(path, "sharegpt_turns")


LONG = {"id": "long", "messages": [said(role, "w " * 100) for role in ("user", "assistant") * 3]}
SHORT = {"id": "short", "messages": [said("user", "x"), said("assistant", "y")]}


@pytest.mark.parametrize(
    ("policy", "lengths", "counts"),
    [("skip", {"short": 1}, (1, 0)), ("truncate", {"long": 2, "short": 1}, (0, 1))],
)
def test_a_session_longer_than_the_context(tmp_path: Path, policy: str, lengths: dict[str, int], counts: tuple[int, int]) -> None:
    """Prompt and answer of its turns are 200, 400 and 600 words."""
    path, keys = written(tmp_path, LONG, SHORT), {"max_model_len": 400, "on_too_long": policy}
    assert {session.id: len(session.turns) for session in sessions_of(path, "openai_messages", **keys)} == lengths
    workload = Workload(scenario(path, "openai_messages", **keys), 0)
    assert [request.turn for request in workload] == [0, 1, 0][-sum(lengths.values()) :]
    assert workload.sessions is not None
    assert (workload.sessions.report.too_long, workload.sessions.report.truncated) == counts


def test_a_session_longer_than_the_context_ends_the_command_by_default(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="session 'long' needs 600 tokens of context and there are 599"):
        sessions_of(written(tmp_path, LONG), "openai_messages", max_model_len=599)


def test_idle_times_are_cut_and_counted(tmp_path: Path) -> None:
    rows = [{"session_id": "a", "text_input": "x", "output_length": 1, "delay": delay} for delay in (0, 90, 20, 100)]
    workload = Workload(scenario(written(tmp_path, *rows), "mooncake_sessions", time_scale=0.5, max_delay_ms=30), 0)
    assert workload.sessions is not None
    assert [turn.delay_ns // MS for turn in workload.sessions.session(0).turns] == [0, 30, 10, 30]
    assert workload.sessions.report.capped_delays == 2


def test_subagents_beyond_the_limit_wait_and_are_counted(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    main = {"session_id": "main", "turns": [dag_turn("m0", spawns=[{"children": names}]), dag_turn("m1")]}
    path = written(tmp_path, main, *({"session_id": name, "turns": [dag_turn(f"{name}0"), dag_turn(f"{name}1")]} for name in names))
    free, capped = (Schedule(scenario(path, "dag_jsonl", max_subagents=most), 0) for most in (None, 1))
    assert [turn.after for turn in next(capped.sessions()).session.turns] == [(), (), (), (2,), (), (4,), (), ()]
    facts = capped.describe()
    assert facts.session_report.waiting_subagents == 2
    assert "2 subagents wait for the end of an earlier one, by max_subagents" in facts.sentences(None)
    assert facts.sha256 != free.describe().sha256
