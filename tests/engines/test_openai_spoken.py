"""What of a streamed answer a chat goes on with, in the forms in which servers stream reasoning and calls of tools."""

from __future__ import annotations

from typing import Any

import pytest

from engines.contract import Function, Message, ToolCall
from engines.http.http1 import parse_head
from engines.openai.decode import DONE_EVENT, decode
from engines.openai.spoken import spoken
from tests.engines.test_openai_streams import FINISH, HEAD, ROLE, chunk, framed, raw, says, usage


def piece(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    name = {"name": first.pop("name")} if "name" in first else {}
    return chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments, **name}, **first}]})


CALLS = [
    piece(0, "", id="c1", type="function", name="look"),
    piece(0, '{"x":'),
    piece(0, " 1}"),
    piece(1, '{"y": 2}', id="c2", type="function", name="find"),
]
CALLED = (ToolCall("c1", Function("look", '{"x": 1}')), ToolCall("c2", Function("find", '{"y": 2}')))
WHOLE = [
    {"id": "c1", "function": {"name": "look", "arguments": '{"x": 1}'}},
    {"id": "c2", "function": {"name": "find", "arguments": '{"y": 2}'}},
]
BLOCKS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": " w00"}]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (says(2), Message("assistant", " w00 w01")),
        *(
            ([chunk({name: "hm"}), chunk({name: "so"}), *says(1)], Message("assistant", " w00"))
            for name in ("reasoning_content", "reasoning", "thinking", "reasoning_text")
        ),
        ([chunk({"content": BLOCKS})], Message("assistant", " w00")),
        ([*says(1), *CALLS], Message("assistant", " w00", CALLED)),
        ([chunk({"reasoning": "hm"}), *CALLS], Message("assistant", "", CALLED)),
        ([chunk({"tool_calls": WHOLE})], Message("assistant", "", CALLED)),
        ([*says(1), chunk({"tool_calls": "odd"}), chunk({"tool_calls": [7, {"function": 7}]})], None),
    ],
)
def test_reasoning_is_left_out_and_calls_are_put_together(events: list[dict[str, Any]], message: Message | None) -> None:
    stream = [ROLE, *events, FINISH, usage(4, completion_tokens_details={"reasoning_tokens": 1})]
    lean = [HEAD, *(framed(event) for event in (*stream, DONE_EVENT)), b"0\r\n\r\n"]
    parsed = parse_head(HEAD)
    assert parsed is not None
    body = b"".join(raw(event) for event in (*stream, DONE_EVENT))
    cut = [body[start : start + 7] for start in range(0, len(body), 7)]
    for payloads in (lean, [b"".join(lean)], [parsed[0], *cut]):
        said = spoken(payloads, decode(payloads).text)
        assert said == message or (message is None and said.content == " w00" and said.tool_calls[-1].function == Function("", ""))


def test_a_completion_is_its_text() -> None:
    lean = [HEAD, framed({"choices": [{"text": "so", "index": 0}], "reasoning": None}), framed(DONE_EVENT), b"0\r\n\r\n"]
    assert spoken(lean, "so") == Message("assistant", "so")
