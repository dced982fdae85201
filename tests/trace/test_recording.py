"""Whatever passes, the file is a trace: both readers take every row with its lengths, and bodies of any bytes end in a row or a count."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf_llm.plan.scenario import load
from bytemlperf_llm.trace.recording import Recording
from bytemlperf_llm.workload import Workload
from tests.virtual import MS

WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12).map(" ".join)
CHATS = st.lists(WORDS, min_size=1, max_size=5)
USAGE = st.none() | st.tuples(st.integers(0, 60), st.integers(0, 9))
HEADERS = st.sampled_from([{}, {"x-session-id": "a"}, {"x-correlation-id": "b"}])
REQUESTS = st.lists(st.tuples(CHATS, USAGE, HEADERS, st.integers(0, 5)), min_size=1, max_size=8)


def body_of(texts: list[str]) -> bytes:
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return json.dumps({"messages": messages}).encode()


def answer(usage: tuple[int, int] | None) -> bytes:
    said: dict[str, Any] = {"choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}]}
    if usage is not None:
        said["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return json.dumps(said).encode()


def record(path: Path, requests: list[Any], *, keep_text: bool, tokenizer: str | None) -> list[dict[str, Any]]:
    """The rows. Answers end in the reverse order of arrival, two by two."""

    async def main() -> None:
        recording = Recording(path.open("xb"), tokenizer, 4, keep_text=keep_text)
        now_ns, waiting = 0, list[Any]()
        for texts, usage, headers, gap in requests:
            now_ns += gap * MS
            waiting.append((recording.arrived(headers, body_of(texts), now_ns), usage))
            if len(waiting) == 2:
                while waiting:
                    exchange, said = waiting.pop()
                    await recording.ended(exchange, [answer(said)], stream=False, cut=False, now_ns=now_ns + MS)
        recording.rows.close()

    asyncio.run(main())
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@settings(deadline=None, max_examples=60)
@given(requests=REQUESTS, keep_text=st.booleans(), tokenizer=st.sampled_from([None, "words"]))
def test_every_row_is_replayed(
    tmp_path_factory: pytest.TempPathFactory, requests: list[Any], keep_text: bool, tokenizer: str | None
) -> None:
    path = tmp_path_factory.mktemp("any") / "t.jsonl"
    rows = record(path, requests, keep_text=keep_text, tokenizer=tokenizer)
    if not rows:
        return
    timed = {"prompts.trace": {"format": "mooncake", "file": str(path), "block_tokens": 4}, "prompts.tokenizer": "words"}
    sent = list(Workload(load("trace-mooncake").override(timed), 0))
    assert [request.max_tokens for request in sent] == [row["output_length"] for row in rows]
    assert [sum(len(message.content.split()) for message in request.messages or ()) for request in sent] == [
        row["input_length"] for row in rows
    ]
    keys = {"format": "mooncake_sessions", "file": str(path)} | ({} if keep_text else {"block_tokens": 4})
    workload = Workload(load("chat-multiturn").override({"prompts": {"sessions": keys, "tokenizer": "words"}, "num_sessions": None}), 0)
    told = [(request.session, request.max_tokens) for request in workload]
    assert sorted(told) == sorted((row["session_id"], row["output_length"]) for row in rows)


@settings(deadline=None)
@given(
    raw=st.binary()
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.dictionaries(st.sampled_from(["messages", "prompt", "tools", "role", "content"]), inner | st.lists(inner)),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
def test_a_body_of_any_bytes_is_a_request_or_counted(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "t.jsonl"

    async def main() -> int:
        recording = Recording(path.open("xb"), None, 4, keep_text=True)
        exchange = recording.arrived({}, raw, 0)
        if exchange is not None:
            await recording.ended(exchange, [answer((3, 2))], stream=False, cut=False, now_ns=1)
        recording.rows.close()
        return recording.rows.written + recording.outcomes.unreadable

    assert asyncio.run(main()) == 1
