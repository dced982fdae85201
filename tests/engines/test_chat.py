"""Chats with tools: the same on OpenAI's wire and in a template, folded into text for one that refuses them, and in every count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bytemlperf_llm.loadgen.recorder import RequestRecorder
from bytemlperf_llm.workload import schedule_line
from bytemlperf_llm.workload.token_counter import TokenizerCounter, WordCounter
from engines import inprocess
from engines.chat import folded, templated
from engines.contract import Function, Message, Model, Request, ToolCall
from engines.openai.engine import OpenAIEngine
from engines.reference.engine import ReferenceEngine
from engines.reference.server import ReferenceServer
from engines.reference.wire import parse_ask
from tests.hostile.server import HostileServer, Settings
from tests.workload.tokenizers import byte_tokenizer

TOOLS = '[{"type":"function","function":{"name":"look up","parameters":{}}}]'
CALL = ToolCall("c1", Function("look", '{"x": 1}'))
CHAT = (
    Message("developer", "be short"),
    Message("user", "one two"),
    Message("assistant", "", (CALL,)),
    Message("tool", "forty two", tool_call_id="c1"),
)
WIRE: list[dict[str, Any]] = [
    {"role": "developer", "content": "be short"},
    {"role": "user", "content": "one two"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "look", "arguments": '{"x": 1}'}}],
    },
    {"role": "tool", "content": "forty two", "tool_call_id": "c1"},
]
REQUEST = Request(index=0, id="r0", max_tokens=4, messages=CHAT, tools=TOOLS)
WORDS = 2 + 2 + 3 + 2 + len(TOOLS.split())
KNOWING = (
    "{% for tool in tools or [] %}<{{ tool.function.name }}>{% endfor %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% for call in message.tool_calls or [] %}!{{ call.function.name }} {{ call.function.arguments.x }}{% endfor %}{{ '\n' }}{% endfor %}"
)
PLAIN = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
REFUSING = (
    "{% for message in messages %}{% if message.role not in ('system', 'user', 'assistant') %}{{ raise_exception('what role is that?') }}"
    f"{{% endif %}}{{% endfor %}}{PLAIN}"
)
RENDERED = {
    KNOWING: "<look up>system: be short\nuser: one two\nassistant: !look 1\ntool: forty two\n",
    f"{PLAIN}{{# 'developer' #}}": "developer: be short\nuser: one two\nassistant: \ntool: forty two\n",
    PLAIN: "system: be short\nuser: one two\nassistant: \ntool: forty two\n",
    REFUSING: f"system: be short\n\n{TOOLS}\nuser: one two\nassistant: {json.dumps(WIRE[2]['tool_calls'], separators=(',', ':'))}\n"
    "user: forty two\n",
}


async def sent_to(endpoint: str, request: Request, **options: str) -> dict[str, Any]:
    """The body that the OpenAI engine sends."""
    async with HostileServer(Settings(pace_s=0.0005)) as server:
        engine = OpenAIEngine()
        await engine.start(Model(name="honest"), {"base_url": server.url, "endpoint": endpoint, **options})
        try:
            await engine.generate(request, RequestRecorder())
        finally:
            await engine.close()
        body: dict[str, Any] = json.loads(server.seen[-1].body)
        return body


async def test_openai_gets_them_as_they_are() -> None:
    body = await sent_to("/v1/chat/completions", REQUEST)
    assert body["messages"] == WIRE
    assert body["tools"] == json.loads(TOOLS)


async def test_tools_of_the_user_go_before_those_of_the_file() -> None:
    body = await sent_to("/v1/chat/completions", REQUEST, extra_body='{"tools": []}')
    assert body["tools"] == []


async def test_completions_get_text() -> None:
    body = await sent_to("/v1/completions", REQUEST)
    assert "tools" not in body
    assert all(word in body["prompt"] for word in ("look up", '"arguments":"{\\"x\\": 1}"', "user: forty two"))


def test_a_plain_message_is_the_bytes_that_it_was() -> None:
    assert msgspec.json.encode(Message("user", "one two")) == b'{"role":"user","content":"one two"}'


@pytest.mark.parametrize("template", RENDERED)
def test_a_template_gets_them_as_they_are_and_one_that_refuses_them_text(tmp_path: Path, template: str) -> None:
    counter = TokenizerCounter(tmp_path / byte_tokenizer(tmp_path, template), plain=False)
    assert counter.prompt(CHAT, TOOLS) == len(RENDERED[template])
    assert counter.rendered(CHAT, TOOLS) == RENDERED[template]
    assert counter.within(RENDERED[template], 12) == 12
    assert counter.has_calls is (template == KNOWING)


def test_a_developers_message_joins_the_system_prompt_at_the_beginning() -> None:
    chat = (Message("system", "one"), Message("user", "x"), Message("developer", "two"))
    told: list[Any] = []
    templated(lambda messages, _tools: str(told.append(messages)), PLAIN, chat, "")
    assert told == [[{"role": "system", "content": "one\n\ntwo"}, {"role": "user", "content": "x"}]]


def test_a_template_that_refuses_a_plain_chat_is_not_asked_again() -> None:
    asked: list[object] = []

    def refuse(messages: object, _tools: object) -> str:
        asked.append(messages)
        raise ValueError("roles must alternate")

    with pytest.raises(ValueError, match="alternate"):
        templated(refuse, "", CHAT[1:2], "")
    assert len(asked) == 1


async def test_an_engine_in_this_process_applies_the_same_rule() -> None:
    class Tokenizer:
        def apply_chat_template(self, messages: Any, **options: Any) -> str:
            self.told = messages, options["tools"]
            if any(message["role"] == "tool" for message in messages):
                raise ValueError("what role is that?")
            return "text"

        def __call__(self, _text: str, **_options: Any) -> dict[str, list[int]]:
            return {"input_ids": [1]}

    raw = Tokenizer()
    assert await inprocess.ChatTokenizer(raw).encode(REQUEST) == [1]
    assert raw.told == (msgspec.to_builtins(folded(CHAT, TOOLS)), None)


async def test_every_count_covers_calls_results_and_tools() -> None:
    assert WordCounter(exact=True).prompt(CHAT, TOOLS) == WORDS
    assert REQUEST.text_length() == len("be shortone twolook") + len('{"x": 1} ') + len("forty two") + len(TOOLS)
    assert parse_ask(json.dumps({"messages": WIRE, "tools": json.loads(TOOLS)}).encode(), True, 1000).prompt_tokens >= WORDS
    engine = ReferenceEngine()
    await engine.start(None, {"ttft_ms": "0", "itl_ms": "0"})
    finish = await engine.generate(REQUEST, RequestRecorder())
    assert finish.usage is not None
    assert finish.usage.prompt_tokens == WORDS
    async with ReferenceServer({"ttft_ms": "0", "itl_ms": "0"}) as server:
        over_http = OpenAIEngine()
        await over_http.start(None, {"base_url": server.url})
        recorder = RequestRecorder()
        await over_http.generate(REQUEST, recorder)
        usage = over_http.decode(recorder.payloads).usage
        await over_http.close()
    assert usage is not None
    assert usage.prompt_tokens == WORDS


def test_the_schedule_covers_them() -> None:
    other = ToolCall("c1", Function("look", "{}"))
    others = [
        REQUEST,
        Request(index=0, id="r0", max_tokens=4, messages=CHAT),
        Request(index=0, id="r0", max_tokens=4, messages=(*CHAT[:2], Message("assistant", "", (other,)), CHAT[3]), tools=TOOLS),
        Request(index=0, id="r0", max_tokens=4, messages=(*CHAT[:3], Message("tool", "forty two")), tools=TOOLS),
    ]
    assert len({schedule_line(request, 0) for request in others}) == 4
