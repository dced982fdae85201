"""Vectors and scores over HTTP: what is sent, what is checked of the answer, and what a wrong one is called."""

from __future__ import annotations

import base64
import json
import struct

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.run.preflight import ready_check
from engines.contract import BadOption, Model, Request
from engines.openai.engine import OpenAIEngine
from engines.openai.outputs import OutputsDecoder
from tests.engines.small_server import answering, error, models, page
from tests.virtual import Collected

TWO = Request(index=0, id="two", max_tokens=0, inputs=("one text", "another one"))
PAIRS = msgspec.structs.replace(TWO, query="which?")
IDS = msgspec.structs.replace(TWO, inputs=((5, 6), (7,)))


def vectors(*numbers, usage=True):
    data = [{"object": "embedding", "index": place, "embedding": each} for place, each in enumerate(numbers)]
    return page("200 OK", {"data": data} | ({"usage": {"prompt_tokens": 9, "total_tokens": 9}} if usage else {}))


def packed(*numbers):
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def raw(text):
    return page("200 OK", text.encode())


async def ask(answer, *requests, endpoint="/v1/embeddings", **options):
    """The records of these requests, one after the other, and what the server was asked."""
    engine, sink = OpenAIEngine(), Collected()
    async with answering(lambda asked: models("m") if asked.method == "GET" else answer(asked)) as server:
        try:
            await engine.start(Model(name="m"), {"base_url": server.url, "endpoint": endpoint, **options})
            worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig())
            await worker.run_closed(iter(requests), 1, monotonic_ns())
        finally:
            await engine.close()
    return sink.by_index(), [asked for asked in server.seen if asked.method == "POST"]


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
async def test_inputs_become_vectors(transport):
    (record,), (asked,) = await ask(lambda asked: vectors([0.5, 1], [2, -3]), TWO, transport=transport)
    assert (record.outcome, record.inputs, record.prompt_tokens, record.output_tokens) == ("ok", 2, 9, 0)
    assert set(record.tokens_per_chunk) == {0}
    assert asked.body == {"model": "m", "input": ["one text", "another one"]}
    assert asked.headers["accept"] == "application/json"


async def test_inputs_may_be_token_ids_and_the_body_has_more_of_the_users():
    body = {"encoding_format": "base64", "dimensions": 2}
    answer = vectors(packed(1, 2), packed(3, 4), usage=False)
    (record,), (asked,) = await ask(lambda asked: answer, IDS, extra_body=json.dumps(body))
    assert (record.outcome, record.prompt_tokens) == ("ok", None)
    assert asked.body == {"model": "m", "input": [[5, 6], [7]]} | body


RESULTS = [{"index": 1, "relevance_score": 0.2}, {"index": 0, "relevance_score": 9}]
SCORES = {
    "Jina, vLLM": ({"results": RESULTS, "usage": {"total_tokens": 7}}, 7),
    "Cohere": ({"results": RESULTS, "meta": {"tokens": {"input_tokens": 5}}}, 5),
    "loose": ({"results": RESULTS, "usage": {"total_tokens": "7", "prompt_tokens": -1}}, 7),
    "odd": ({"results": RESULTS, "usage": 7, "meta": []}, None),
    "Cohere, units": ({"results": RESULTS, "meta": {"billed_units": {"search_units": 1}}}, None),
    "TEI": ([{"index": 0, "score": -3.5}, {"index": 1, "score": 0.1, "text": "t"}], None),
}


@pytest.mark.parametrize("form", SCORES)
async def test_a_rerank_gives_a_score_for_each_document(form):
    body, tokens = SCORES[form]
    (record,), (asked,) = await ask(lambda asked: page("200 OK", body), PAIRS, endpoint="/v2/rerank")
    assert (record.outcome, record.inputs, record.prompt_tokens) == ("ok", 2, tokens)
    assert asked.body == {"model": "m", "query": "which?", "documents": ["one text", "another one"]}


WRONG = {
    "one too few": (vectors([1, 2]), "1 vectors or scores for 2 inputs"),
    "one too many": (vectors([1], [2], [3]), "3 vectors"),
    "none": (raw('{"data": []}'), "0 vectors"),
    "of two lengths": (vectors([1, 2], [1]), "a vector of 1 numbers where the first has 2"),
    "empty": (vectors([], []), "a vector of 0 numbers"),
    "NaN": (raw('{"data": [{"embedding": [NaN]}, {"embedding": [1]}]}'), "JSON"),
    "too large": (raw('{"data": [{"embedding": [1e999]}, {"embedding": [1]}]}'), ""),
    "null": (raw('{"data": [{"embedding": [null]}, {"embedding": [1]}]}'), "null"),
    "infinite": (vectors(packed(1, float("inf")), packed(1, 2)), "not finite"),
    "no base64": (vectors("?!", "?!"), "base64"),
    "three bytes": (vectors("AAAA", "AAAA"), "base64"),
    "an index twice": (raw('{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}'), "index"),
    "a score without one": (raw('{"results": [{"index": 0}, {"index": 1, "score": 1}]}'), "without a score"),
    "a stream": (raw("data: {}\n\n"), "JSON"),
    "another thing": (raw('{"object": "list"}'), "neither data nor results"),
    "deep": (raw("[" * 2000 + "]" * 2000), "array"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_an_answer_that_can_not_be_right_is_an_invalid_output(name):
    answer, said = WRONG[name]
    (record,), _ = await ask(lambda asked: answer, TWO)
    assert (record.outcome, record.error_class) == ("failed", "invalid_output")
    assert said in record.error_detail


OTHERS = {
    "an error with status 200": (raw('{"error": {"message": "no such model"}}'), "error_in_stream", "no such model"),
    "too long": (error("400 Bad Request", "This model's maximum context length is 512 tokens"), "context_length", "512"),
    "busy": (error("429 Too Many Requests", "later"), "http_429", "later"),
    "a page": (page("200 OK", b"<html>hello</html>", kind="text/html"), "not_a_stream", "instead of JSON"),
    "nothing": (page("200 OK", b""), "empty_response", ""),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_other_failures_keep_their_class(name):
    answer, error_class, said = OTHERS[name]
    (record,), _ = await ask(lambda asked: answer, TWO)
    assert (record.outcome, record.error_class) == ("failed", error_class)
    assert said in record.error_detail


async def test_all_vectors_of_a_run_have_one_length():
    answers = iter([vectors([1, 2], [3, 4]), vectors([1], [2])])
    requests = [TWO, msgspec.structs.replace(TWO, index=1, id="later")]
    (first, second), _ = await ask(lambda asked: next(answers), *requests)
    assert (first.outcome, second.error_class) == ("ok", "invalid_output")


def test_a_part_of_an_answer_carries_no_token():
    whole = vectors([1.5] * 50, [2.5] * 50)
    for end in range(len(whole)):
        decoded = OutputsDecoder()([whole[:end]])
        assert decoded.tokens_per_chunk == [0]
        assert decoded.error_class is not None


async def test_a_server_that_wants_texts_gets_them_from_then_on():
    def answer(asked):
        if "texts" not in asked.body:
            return page("422 Unprocessable Entity", {"error": "Failed to deserialize the JSON body: missing field `texts` at line 1"})
        return page("200 OK", SCORES["TEI"][0])

    async with answering(lambda asked: models("m") if asked.method == "GET" else answer(asked)) as server:
        for options in ({}, {"documents_field": "texts"}):
            engine = OpenAIEngine()
            info = await engine.start(Model(name="m"), {"base_url": server.url, "endpoint": "/rerank", **options})
            changed = await ready_check(engine, info, PAIRS, Timeouts(), Redactor())
            await engine.close()
            assert changed == ({} if options else {"documents_field": "texts"})
    assert server.seen[-1].body == {"model": "m", "query": "which?", "texts": ["one text", "another one"]}


async def test_a_model_that_gives_none_ends_the_run_with_its_words():
    async with answering(
        lambda asked: models("m") if asked.method == "GET" else error("400 Bad Request", "not an embedding model")
    ) as server:
        engine = OpenAIEngine()
        info = await engine.start(Model(name="m"), {"base_url": server.url, "endpoint": "/v1/embeddings"})
        with pytest.raises(UserError, match="not an embedding model"):
            await ready_check(engine, info, TWO, Timeouts(), Redactor())
        await engine.close()


@pytest.mark.parametrize("name", ["input", "query", "documents", "texts", "top_n"])
async def test_the_scenarios_fields_are_not_the_users(name):
    with pytest.raises(BadOption, match=name):
        await OpenAIEngine().start(None, {"extra_body": json.dumps({name: 1})})
