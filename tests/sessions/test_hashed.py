"""Sessions whose prompts are lengths and block hashes: which text is shared, what waits for what, and lines that can't be meant."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.sessions.graph import Turn
from bytemlperf_llm.workload.token_counter import TokenizerCounter, counter_for
from tests.sessions.test_files import scenario, sessions_of, texts, written
from tests.virtual import MS
from tests.workload.tokenizers import byte_tokenizer


def words(text: str) -> list[str]:
    return text.removeprefix("user: ").split()


def shared(turn: Turn) -> int | None:
    """Tokens of blocks that were sent before; the opening word is common to all prompts."""
    return 0 if turn.shared is None or turn.shared.tokens == 1 else turn.shared.tokens


def call(t: float, tokens: int, ids: list[int], **more: Any) -> dict[str, Any]:
    return {"t": t, "type": "n", "model": "m", "in": tokens, "out": 5, "hash_ids": ids, "stop": "", **more}


def subagent(t: float, name: str, *requests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"t": t, "type": "subagent", "agent_id": name, "subagent_type": "Explore", "status": "completed", "requests": requests, **more}


def trace(*requests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "w", "models": ["m"], "block_size": 64, "hash_id_scope": "local", "requests": requests, "totals": {}, **more}


WEKA = trace(
    call(0, 130, [1, 2], api_time=2.0, think_time=0),
    subagent(30, "a1", call(0, 70, [7], api_time=1, think_time=0), call(9, 70, [7], think_time=3), duration_ms=27_000),
    subagent(31, "a2", call(0, 64, [8]), duration_ms=None, status="async_launched"),
    call(40, 200, [1, 2, 3], think_time=38),
    call(50, 200, [1, 9, 3], type="s", ttft=0.5, think_time=4),
)


def test_weka_subagents_fork_and_join(tmp_path: Path) -> None:
    """The next request of the parent waits for the subagent, and then as long as the file's did: its `t` is when it had ended."""
    [session] = sessions_of(written(tmp_path, WEKA), "weka")
    assert [(turn.parents, turn.continues, turn.delay_ns // MS, turn.max_tokens) for turn in session.turns] == [
        ((), None, 0, 5),
        ((0,), None, 0, 5),
        ((1,), None, 3000, 5),
        ((0,), None, 0, 5),
        ((0, 2), None, 10_000, 5),
        ((4,), None, 4000, 5),
    ]


def test_equal_ids_are_an_equal_prefix_and_ids_are_of_their_trace(tmp_path: Path) -> None:
    first, second = sessions_of(written(tmp_path, WEKA, WEKA | {"id": "x"}), "weka")
    told = [words(texts(first, place)[0]) for place in range(6)]
    assert [len(each) for each in told] == [130, 70, 70, 64, 200, 200]
    assert told[0][:128] == told[4][:128]
    assert told[0][128:] != told[4][128:130]
    assert told[4][:64] == told[5][:64]
    assert told[4][64] != told[5][64]
    assert [shared(turn) for turn in first.turns] == [0, 0, 64, 0, 128, 64]
    assert words(texts(second, 0)[0])[1:64] != told[0][1:64]
    assert [shared(turn) for turn in second.turns] == [0, 0, 64, 0, 128, 64]


def test_ids_of_global_scope_are_shared_between_traces(tmp_path: Path) -> None:
    both = written(tmp_path, *(trace(call(0, 130, [1, 2]), id=name, hash_id_scope="global") for name in "ab"))
    first, second = sessions_of(both, "weka")
    assert words(texts(first, 0)[0])[:128] == words(texts(second, 0)[0])[:128]
    assert shared(second.turns[0]) == 128


def test_weka_without_times_of_the_api_waits_from_start_to_start(tmp_path: Path) -> None:
    [session] = sessions_of(written(tmp_path, trace(call(0, 64, [1]), call(12.5, 64, [1], api_time=2), call(20, 64, [1]))), "weka")
    assert [turn.delay_ns // MS for turn in session.turns] == [0, 12_500, 5_500]


def test_a_folder_of_traces_and_one_in_several_lines(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(WEKA, indent=1), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(WEKA | {"id": "first"}), encoding="utf-8")
    (tmp_path / "README.md").write_text("about", encoding="utf-8")
    assert [session.id for session in sessions_of(tmp_path, "weka")] == ["first", "w"]


def chat(name: int, parent: int, at: float, ids: list[int], **more: Any) -> dict[str, Any]:
    length = 16 * len(ids)
    return {"chat_id": name, "parent_chat_id": parent, "timestamp": at, "input_length": length, "output_length": 3, "hash_ids": ids, **more}


BAILIAN = [
    chat(1, -1, 10, [1, 2]),
    chat(2, -1, 10.5, [1, 3]),
    chat(3, 1, 61.114, [1, 2, 5]),
    chat(4, 1, 70, [1, 2, 6]),
    chat(5, 3, 90, [9]),
]


def test_bailian_chains(tmp_path: Path) -> None:
    first, second = sessions_of(written(tmp_path, *BAILIAN), "bailian_chains", time_scale=2.0)
    assert (first.id, first.at_ns, second.id, second.at_ns) == ("1", 0, "2", 1000 * MS)
    assert [(turn.parents, turn.at_ns // MS, turn.delay_ns) for turn in first.turns] == [
        ((), 0, 0),
        ((0,), 102_228, 0),
        ((0,), 120_000, 0),
        ((1,), 160_000, 0),
    ]
    assert [shared(turn) for turn in (*first.turns, *second.turns)] == [0, 32, 32, 0, 16]
    assert words(texts(first, 0)[0])[:16] == words(texts(second, 0)[0])[:16]


def tracelab(index: int, second: float, total: int, prefix: int, *events: str, session: str = "s") -> dict[str, Any]:
    times = [{"event_type": kind, "timestamp": f"2026-06-01T05:40:{second + place:06.3f}Z"} for place, kind in enumerate(events)]
    tokens = {"input_tokens_total": total, "prefix_tokens": prefix, "newly_append_tokens": total - prefix, "output_tokens": 4}
    return {"session_id": session, "round_index": index, "user": "u", "model": "m", "timing_events": times, "tools": [], **tokens}


def test_tracelab_mints_blocks_from_prefix_and_append(tmp_path: Path) -> None:
    rows = [
        tracelab(0, 10, 100, 80, "user_message", "reasoning", "tool_call"),
        tracelab(0, 2, 50, 50, "user_message", "text", session="t"),
        tracelab(2, 40, 150, 40, "tool_result", "tool_result", "text", "usage_report"),
        tracelab(3, 50, 160, 150),
        tracelab(1, 20, 150, 100, "tool_result", "tool_call"),
    ]
    first, second = sessions_of(written(tmp_path, *rows), "tracelab")
    assert (first.id, first.at_ns, second.id, second.at_ns) == ("t", 0, "s", 8000 * MS)
    assert [turn.delay_ns // MS for turn in second.turns] == [0, 8000, 20_000, 0]
    assert [shared(turn) for turn in second.turns] == [0, 96, 32, 144]
    told = [words(texts(second, place)[0]) for place in range(4)]
    assert [len(each) for each in told] == [100, 150, 150, 160]
    assert told[0][:96] == told[1][:96]
    assert told[1][:32] == told[2][:32]
    assert told[1][32] != told[2][32]


def test_mooncake_rows_with_hash_ids(tmp_path: Path) -> None:
    rows = [
        {"session_id": "a", "input_length": length, "output_length": 2, "hash_ids": ids, "delay": 5}
        for length, ids in ((600, [4, 5]), (1200, [4, 6, 7]))
    ]
    [session] = sessions_of(written(tmp_path, *rows), "mooncake_sessions")
    assert [(turn.parents, turn.delay_ns, shared(turn)) for turn in session.turns] == [((), 5 * MS, 0), ((0,), 5 * MS, 512)]


@pytest.mark.parametrize(
    ("form", "rows", "message"),
    [
        ("weka", [trace(call(0, 130, [1, 2], think_time=-1))], ":1: requests[0].think_time: Expected `float` >= 0.0"),
        ("weka", [trace(call(0, 130, [1, 2], think_time=float("nan")))], ":1: requests[0].think_time: Expected `float` >= 0.0"),
        ("weka", [WEKA, WEKA], ":2: session id 'w' is there twice"),
        (
            "weka",
            [trace(call(0, 130, [1, 2]), call(1, 640, [1, 2]))],
            ":1: session 'w': turn '1': hash_ids: 2 ids, and 640 prompt tokens are 10",
        ),
        ("weka", [trace(call(0, 1, []), *(subagent(1, "a", call(0, 1, [])) for _ in range(2)))], "session 'w': turn 'a/0' is there twice"),
        ("weka", [{"id": "w", "requests": [{"t": 0, "type": "n", "out": 3}]}], ":1: requests[0]: Object missing required field `in`"),
        ("weka", [trace()], "session 'w': it has no turn"),
        ("bailian_chains", [*BAILIAN, chat(1, -1, 100, [1])], ":6: chat_id: 1 is there twice"),
        ("bailian_chains", BAILIAN[1:], ":2: parent_chat_id: there is no row 1 before it"),
        ("bailian_chains", [chat(1, 2, 0, [1]), chat(2, 1, 1, [1])], ":1: parent_chat_id: there is no row 2 before it"),
        ("bailian_chains", [chat(1, -1, 10, [1]), chat(2, 1, 9, [1])], ":2: timestamp: earlier than that of its root in line 1"),
        ("bailian_chains", [chat(1, -1, -1, [1])], ":1: timestamp: '-1' is not a time"),
        ("bailian_chains", [chat(1, -1, 0, [1] * 9, input_length=16 * 512)], "9 ids, and 8192 prompt tokens are 512 blocks of 16"),
        ("tracelab", [tracelab(0, 0, -5, 0)], ":1: input_tokens_total: Expected `int` >= 0"),
        ("tracelab", [tracelab(0, 0, 5, 0) | {"timing_events": [{"timestamp": "yesterday"}]}], ":1: timing_events[0].timestamp"),
    ],
)
def test_rows_that_cant_be_meant(tmp_path: Path, form: str, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        sessions_of(written(tmp_path, *rows), form)


def test_the_block_size_that_is_given_goes_before_the_files(tmp_path: Path) -> None:
    rows = [chat(1, -1, 0, [1, 2], input_length=1024)]
    [session] = sessions_of(written(tmp_path, *rows), "bailian_chains", block_tokens=512)
    assert session.turns[0].blocks is not None
    with pytest.raises(UserError, match="2 ids, and 1024 prompt tokens are 64 blocks of 16; give the tokens of one hash id"):
        sessions_of(written(tmp_path, *rows), "bailian_chains")


def test_prompts_of_blocks_keep_the_context(tmp_path: Path) -> None:
    keys = {"max_model_len": 200, "on_too_long": "truncate"}
    workload = Workload(scenario(written(tmp_path, WEKA), "weka", **keys), 0)
    assert workload.sessions is not None
    assert [request.max_tokens for request in workload] == [5] * 4
    assert workload.sessions.report.truncated == 1
    assert workload.prompt_lengths == "exact: one token per word, the engine's own rule"


def test_sessions_of_a_file_are_compiled_one_by_one(tmp_path: Path) -> None:
    """What is wrong further on doesn't keep the first ones from being read."""
    workload = Workload(scenario(written(tmp_path, WEKA, {"id": "x"}), "weka"), 0)
    assert workload.sessions is not None
    assert workload.sessions.session(0).id == "w"
    with pytest.raises(UserError, match=":2: requests: Object missing"):
        workload.sessions.session(1)


def shared_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other)))


def test_what_prompts_of_blocks_share_is_what_their_tokens_share(tmp_path: Path) -> None:
    """Behind a chat template, whose end stands in a prompt's last block: 640 tokens of 10 ids are 640 less that."""
    tokenizer = byte_tokenizer(tmp_path / "bytes")
    counter = counter_for(tokenizer, "chat")
    assert isinstance(counter, TokenizerCounter)
    ids = list(range(1, 30))
    prompts = [call(0, tokens, ids[: tokens // 64]) for tokens in (640, 645, 700, 1290, 642, 1300)]
    path = written(tmp_path, trace(*prompts), trace(*prompts[1:], id="other", hash_id_scope="global"))
    found = Workload(scenario(path, "weka").override({"prompts.tokenizer": tokenizer}), 0).sessions
    assert found is not None
    sent: list[Sequence[int]] = []
    for session in (found.session(0), found.session(1)):
        for place, turn in enumerate(session.turns):
            tokens = counter._encoded(session.prompt(place)).ids
            assert turn.blocks is not None
            assert len(tokens) == turn.blocks.tokens
            most = max((shared_tokens(tokens, other) for other in sent), default=0)
            shared = 0 if turn.shared is None else turn.shared.tokens or 0
            assert abs(most - shared) < 8, "up to a word, whose letters are tokens of their own"
            sent.append(tokens)
    assert max(turn.shared.tokens or 0 for turn in session.turns if turn.shared) > 1200
