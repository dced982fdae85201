"""OpenAI's Responses API, streamed over HTTP: what is sent, what its events mean, and how an answer may end."""

from __future__ import annotations

import json

import msgspec
import pytest

from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from engines.contract import Function, Message, Model, Request, Sampling, ToolCall
from engines.openai.engine import OpenAIEngine
from engines.openai.responses import decode_responses
from tests.engines.small_server import answering, models, page
from tests.virtual import Collected

ASKED = Request(
    index=0, id="r", max_tokens=4, messages=(Message("system", "Be short."), Message("user", "Hello")), sampling=Sampling(seed=5)
)
USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 8},
    "output_tokens": 4,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 15,
}
BEGIN = ({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "error": None, "usage": None, "output": []}},
         {"type": "response.in_progress", "response": {"id": "resp_1", "status": "in_progress"}},
         {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "content": []}},
         {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}})  # fmt: skip


def text(*words, kind="response.output_text.delta"):
    return [{"type": kind, "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": word, "logprobs": []} for word in words]


def ended(kind="completed", usage=USAGE, **more):
    return [
        {"type": "response.output_text.done", "text": "all of it again"},
        {"type": "response.output_item.done", "item": {"type": "message", "content": [{"type": "output_text", "text": "all of it again"}]}},
        {"type": f"response.{kind}", "response": {"id": "resp_1", "status": kind, "usage": usage, "error": None} | more},
    ]


def events(*parts, named=True, begin=BEGIN, done=False):
    frames = [(f"event: {part['type']}\n" if named else "") + f"data: {json.dumps(part)}\n\n" for part in (*begin, *parts)]
    return page("200 OK", ("".join(frames) + ("data: [DONE]\n\n" if done else "")).encode(), kind="text/event-stream")


async def ask(answer, request=ASKED, **options):
    engine, sink = OpenAIEngine(), Collected()
    async with answering(lambda asked: models("m") if asked.method == "GET" else answer) as server:
        try:
            info = await engine.start(Model(name="m"), {"base_url": server.url, "endpoint": "/v1/responses", **options})
            worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig(keep_output=True))
            await worker.run_closed(iter([request]), 1, monotonic_ns())
        finally:
            await engine.close()
    assert (info.api, info.accepts) == ("responses", ["images"])
    return sink.records[0], server.seen[-1].body


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
@pytest.mark.parametrize("named", [True, False])
async def test_an_answer_is_its_text_deltas_and_its_usage(named, transport):
    record, body = await ask(events(*text("Good", " day", " to", " you"), *ended(), named=named), transport=transport)
    assert (record.outcome, record.output, record.finish_reason) == ("ok", "Good day to you", "stop")
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens, record.usage_tokens, record.shown_tokens) == (11, 8, 4, 4, 4)
    assert body == {
        "model": "m",
        "input": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}],
        "max_output_tokens": 4,
        "stream": True,
        "store": False,
        "temperature": 0.0,
        "seed": 5,
        "ignore_eos": True,
    }


async def test_an_answer_at_its_limit_is_well_and_says_so():
    for end in (
        ended("incomplete", incomplete_details={"reason": "max_output_tokens"}),
        ended("completed", status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
    ):
        record, _ = await ask(events(*text("a", "b", "c", "d"), *end))
        assert (record.outcome, record.finish_reason, record.output_tokens) == ("ok", "length", 4)
    filtered, _ = await ask(events(*text("a"), *ended("incomplete", usage=None, incomplete_details={"reason": "content_filter"})))
    assert (filtered.outcome, filtered.finish_reason) == ("ok", "content_filter")


async def test_calls_refusals_and_reasoning_are_generated_too():
    call = text('{"a":', " 1}", kind="response.function_call_arguments.delta")
    reasons = text("so", kind="response.reasoning_text.delta")
    record, _ = await ask(events(*reasons, *call, *text("no", kind="response.refusal.delta"), *ended()))
    assert (record.outcome, record.output, record.output_tokens) == ("ok", 'so{"a": 1}no', 4)
    assert (record.streamed_reasoning_tokens, record.reasoning_ns is not None, record.answer_ns is not None) == (1, True, True)


def usage_of(reasoning, output):
    return USAGE | {"output_tokens": output, "output_tokens_details": {"reasoning_tokens": reasoning}}


async def test_reasoning_that_is_not_streamed_is_hidden_and_a_summary_is_no_token_then():
    summary = text("**Thinking**", kind="response.reasoning_summary_text.delta")
    record, _ = await ask(events(*summary, *text("a", "b"), *ended(usage=usage_of(30, 32))))
    assert (record.hidden_tokens, record.output_tokens, record.output) == (30, 2, "ab")
    assert (record.streamed_reasoning_tokens, record.answer_ns) == (None, None), "what a summary summarises was before it"
    streamed, _ = await ask(events(*text(*"xyz", kind="response.reasoning_text.delta"), *text("a"), *ended(usage=usage_of(3, 4))))
    assert (streamed.hidden_tokens, streamed.output_tokens) == (0, 4)


async def test_a_summary_that_is_all_there_is_of_the_reasoning_counts():
    summary = text("so", " so", kind="response.reasoning_summary_text.delta")
    record, _ = await ask(events(*summary, *text("a", "b"), *ended()))
    assert (record.output, record.output_tokens, record.shown_tokens) == ("so soab", 4, 4)


FAILURES = {
    "failed": (ended("failed", error={"code": "server_error", "message": "out of memory"}), "error_in_stream", "out of memory"),
    "failed, unsaid": (ended("failed"), "error_in_stream", ""),
    "cancelled": (ended("cancelled"), "error_in_stream", ""),
    "error": ([{"type": "error", "code": "rate_limit", "message": "slow down", "param": None}], "error_in_stream", "slow down"),
    "error of a server": ([{"type": "response.error", "error": {"message": "no slot"}}], "error_in_stream", "no slot"),
    "error in a chat's form": ([{"type": "", "error": {"message": "bad things"}}], "error_in_stream", "bad things"),
    "cut": ([], "truncated_stream", ""),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_stream_that_fails_is_a_failure_with_its_words(name):
    end, error_class, said = FAILURES[name]
    record, _ = await ask(events(*text("a", "b"), *end))
    assert (record.outcome, record.error_class) == ("failed", error_class)
    assert said in record.error_detail


async def test_an_answer_without_a_token_failed():
    record, _ = await ask(events(*ended()))
    assert (record.outcome, record.error_class) == ("failed", "no_token")


@pytest.mark.parametrize(
    "answer", [page("200 OK", b'{"object": "response"}'), page("404 Not Found", {"error": {"message": "no responses"}})]
)
async def test_what_is_no_stream_is_refused(answer):
    record, _ = await ask(answer)
    assert record.error_class in ("not_a_stream", "http_4xx")


def test_odd_fields_cost_those_fields_and_not_the_answer():
    odd = [
        {"type": "response.output_text.delta", "delta": {"text": "a"}},
        {"type": "response.output_text.delta", "delta": None},
        {"type": 7, "delta": "b"},
        "ping",
        {"type": "response.completed", "response": {"usage": {"input_tokens": "11", "output_tokens": 1.0}, "incomplete_details": 5}},
    ]
    frames = "".join(f"data: {json.dumps(each)}\n\n" for each in odd)
    decoded = decode_responses([page("200 OK", (frames + "data:\n\ndata: [DONE]\n\n").encode(), kind="text/event-stream")])
    assert (decoded.error_class, decoded.text, decoded.reason, sum(decoded.tokens_per_chunk)) == (None, "a", "stop", 1)
    assert decoded.usage is not None
    assert decoded.usage.prompt_tokens == 11


def test_every_cut_of_the_reads_gives_the_same_answer():
    whole = events(*text("Good", " day"), *ended(usage=usage_of(0, 2)), done=True)
    one = decode_responses([whole])
    for size in (1, 7, 64, 500):
        parts = decode_responses([whole[place : place + size] for place in range(0, len(whole), size)])
        assert (parts.text, parts.reason, sum(parts.tokens_per_chunk), parts.error_class) == (one.text, "stop", 2, None)


CALL = ToolCall(id="c1", function=Function(name="look", arguments='{"at": 1}'))


async def test_tools_are_items_and_fields_of_their_own():
    messages = (Message("user", "Look"), Message("assistant", "", (CALL,)), Message("tool", "seen", tool_call_id="c1"))
    tools = json.dumps([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}])
    _, body = await ask(events(*text("a"), *ended()), msgspec.structs.replace(ASKED, messages=messages, tools=tools))
    assert body["input"] == [
        {"role": "user", "content": "Look"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "seen"},
    ]
    assert body["tools"] == [{"type": "function", "name": "look", "parameters": {"type": "object"}}]


async def test_what_continues_a_chat_has_calls_and_no_reasoning():
    item = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": 1}'}
    reads = events(
        *text("hm", kind="response.reasoning_text.delta"),
        *text("I", " look"),
        {"type": "response.output_item.done", "item": item},
        *ended(),
    )
    engine = OpenAIEngine()
    async with answering(lambda asked: models("m")) as server:
        await engine.start(None, {"base_url": server.url, "endpoint": "/v1/responses"})
        assert engine.spoken([reads], "hmI look") == Message("assistant", "I look", (CALL,))
        await engine.close()
