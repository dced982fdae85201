"""The HTTP engine against every misbehaviour in the table, through the real worker and real sockets."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import BadOption, EngineUnavailable, Model, Sampling
from engines.http import pool as http_pool
from engines.http import reader
from engines.http.tap import PythonTap
from engines.openai import endpoint as openai
from engines.openai.endpoint import Endpoint
from engines.openai.engine import OpenAIEngine
from engines.reference.server import ReferenceServer
from tests.hostile.server import BEHAVIOURS, TLS_OUTCOMES, HostileServer, Settings
from tests.virtual import Collected, make_request

GENEROUS = Timeouts()
SHORT_NS = NS_PER_S * 6 // 10
LIMITS = {
    None: GENEROUS,
    "first_token": Timeouts(first_token_ns=SHORT_NS),
    "idle": Timeouts(idle_ns=SHORT_NS),
    "total": Timeouts(total_ns=SHORT_NS),
}
SMALL = Settings(pace_s=0.0005, long_line_bytes=80 * 1024 * 1024, bomb_bytes=16 * 1024 * 1024, header_bomb_bytes=1024 * 1024)
ONLY_LEAN = {"endless_interim", "header_bomb", "header_line_bomb", "not_http", "bad_chunk_size", "redirect_302", "redirect_307"}
"""Cases whose class differs over aiohttp: it follows redirects, and names its own parser's errors otherwise."""


READINGS = pytest.mark.parametrize("reading", ["loop", "thread", "python"])


def read_by(reading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is read by the event loop, by the reading thread, or by the event loop in Python alone."""
    monkeypatch.setattr(openai, "MANY_READS", 0 if reading == "thread" else 1 << 30)
    if reading == "thread" and reader._reader_type is None:
        pytest.skip("there is no reading thread where engines/http/_stream.c isn't compiled")
    if reading == "python":
        monkeypatch.setattr(http_pool, "make_tap", PythonTap)


async def ask(
    url: str, model: str, *, count: int = 1, timeouts: Timeouts = GENEROUS, options: dict[str, str] | None = None
) -> list[RequestRecord]:
    """`count` requests, one after the other, as the load generator makes them."""
    engine = OpenAIEngine()
    try:
        await engine.start(Model(name=model), {"base_url": url} | (options or {}))
        sink = Collected()
        worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig(timeouts=timeouts, keep_output=True))
        await worker.run_closed(iter([make_request(i) for i in range(count)]), 1, monotonic_ns())
    finally:
        await engine.close()
    assert len(sink.records) == count
    return sink.by_index()


def check(record: RequestRecord, name: str) -> None:
    expected = BEHAVIOURS[name].outcome
    assert record.error_class == expected.error_class, record.error_detail
    assert record.outcome == ("ok" if expected.error_class is None else "failed")
    if expected.error_class is None:
        assert (record.output, record.output_tokens) == (expected.text, expected.tokens)
        assert sum(record.tokens_per_chunk) == record.output_tokens
        assert len(record.tokens_per_chunk) == len(record.chunk_ns)
    assert record.chunk_ns == sorted(record.chunk_ns)
    assert "\n" not in record.error_detail
    assert len(record.error_detail) <= 400


@READINGS
@pytest.mark.parametrize("name", BEHAVIOURS)
async def test_every_behaviour_ends_as_the_table_says(name, reading, monkeypatch):
    read_by(reading, monkeypatch)
    async with HostileServer(SMALL) as server:
        (record,) = await ask(server.url, name, timeouts=LIMITS[BEHAVIOURS[name].limit])
    check(record, name)


@pytest.mark.parametrize("name", [name for name in BEHAVIOURS if name not in ONLY_LEAN])
async def test_the_aiohttp_transport_agrees(name):
    async with HostileServer(SMALL) as server:
        (record,) = await ask(server.url, name, timeouts=LIMITS[BEHAVIOURS[name].limit], options={"transport": "aiohttp"})
    check(record, name)


@pytest.mark.parametrize("kind", TLS_OUTCOMES)
async def test_tls(kind):
    async with HostileServer(SMALL, tls=kind) as server:
        options = {"ca_file": str(server.ca_file)} if server.ca_file else {}
        if kind == "good":
            (record,) = await ask(server.url, "honest", options=options)
            check(record, "honest")
            return
        with pytest.raises(EngineUnavailable, match="tls"):
            await ask(server.url, "honest", options=options)


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
@pytest.mark.parametrize("kind", [kind for kind in TLS_OUTCOMES if kind != "good"])
async def test_tls_that_fails_in_mid_run_has_its_class(kind, transport, monkeypatch):
    """A certificate that runs out after the start: the start's own question is left out."""

    async def not_asked(*_arguments, **_named):
        return None

    monkeypatch.setattr(Endpoint, "find_models", not_asked)
    async with HostileServer(SMALL, tls=kind) as server:
        options = {"transport": transport} | ({"ca_file": str(server.ca_file)} if server.ca_file else {})
        records = await ask(server.url, "honest", count=2, options=options)
    for record in records:
        assert (record.outcome, record.error_class) == ("failed", TLS_OUTCOMES[kind].error_class), record.error_detail


async def test_insecure_takes_any_certificate():
    async with HostileServer(SMALL, tls="expired") as server:
        (record,) = await ask(server.url, "honest", options={"insecure": "true"})
    check(record, "honest")


async def test_retry_after_is_told():
    async with HostileServer(SMALL) as server:
        (record,) = await ask(server.url, "too_many_requests")
    assert "Retry-After: 7" in record.error_detail


@READINGS
async def test_a_close_after_the_answer_costs_the_next_request_nothing(reading, monkeypatch):
    read_by(reading, monkeypatch)
    async with HostileServer(SMALL) as server:
        records = await ask(server.url, "closes_after_answer", count=5)
    assert {record.outcome for record in records} == {"ok"}


@READINGS
async def test_nothing_is_retried_in_secret(reading, monkeypatch):
    read_by(reading, monkeypatch)
    async with HostileServer(SMALL) as server:
        first, second = await ask(server.url, "drops_second_request", count=2)
        posts = [seen for seen in server.seen if seen.method == "POST"]
    assert (first.outcome, first.error_class, second.outcome) == ("failed", "connection_reset", "ok")
    assert len(posts) == 2


@READINGS
async def test_the_same_connection_serves_request_after_request(reading, monkeypatch):
    read_by(reading, monkeypatch)
    async with HostileServer(SMALL) as server:
        await ask(server.url, "honest", count=20)
        assert server.connections == 1


@READINGS
async def test_bad_company_changes_nothing_for_the_others(reading, monkeypatch):
    """Failing requests among honest ones: each counted once, the honest ones whole."""
    read_by(reading, monkeypatch)
    names = [name for name, behaviour in BEHAVIOURS.items() if behaviour.limit is None and name not in ("long_line", "bomb", "drip")]
    async with HostileServer(SMALL) as server:
        engines = {name: OpenAIEngine() for name in names}
        sink = Collected()
        try:
            for name, engine in engines.items():
                await engine.start(Model(name=name), {"base_url": server.url})
            workers = [Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig()) for engine in engines.values()]
            ids = itertools.count()
            await asyncio.gather(*(worker.run_closed((make_request(next(ids)) for _ in range(3)), 1, monotonic_ns()) for worker in workers))
        finally:
            for engine in engines.values():
                await engine.close()
    assert len(sink.records) == 3 * len(names)
    expected_ok = sum(BEHAVIOURS[name].outcome.error_class is None for name in names)
    not_dropped = 1  # of the three of drops_second_request
    assert sum(record.outcome == "ok" for record in sink.records) == 3 * expected_ok + not_dropped


# -- what is sent, and start ----------------------------------------------------------


async def test_the_request_is_as_openai_wants_it():
    import json

    async with HostileServer(SMALL) as server:
        await ask(server.url, "honest", options={"extra_body": '{"min_p": 0.1}', "headers": '{"X-Team": "blue-team"}'})
        sent = server.seen[-1]
    body = json.loads(sent.body)
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["x-request-id"] == "r0"
    assert sent.headers["x-team"] == "blue-team"
    assert sent.headers["accept-encoding"] == "identity"
    assert "authorization" not in sent.headers
    assert body == {
        "model": "honest",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": Sampling().temperature,
        "ignore_eos": True,
        "min_p": 0.1,
    }


async def test_the_key_comes_from_environment_or_file(monkeypatch, tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text("sk-from-file\n")
    async with HostileServer(SMALL) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
        await ask(server.url, "honest")
        assert server.seen[-1].headers["authorization"] == "Bearer sk-from-environment"
        await ask(server.url, "honest", options={"api_key_file": str(key_file)})
        assert server.seen[-1].headers["authorization"] == "Bearer sk-from-file"


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"base_url": "ftp://x"}, "http"),
        ({"base_url": "http://x:port"}, "port"),
        ({"endpoint": "v1"}, "not a path"),
        ({"endpoint": "/v1/score"}, "none that is known"),
        ({"extra_body": "{"}, "not JSON"),
        ({"extra_body": '{"max_tokens": 3}'}, "max_tokens"),
        ({"extra_body": '{"n": 2}'}, "extra_body sets n,"),
        ({"extra_body": '{"best_of": 2}'}, "extra_body sets best_of,"),
        ({"extra_body": '{"echo": true}'}, "extra_body sets echo,"),
        ({"extra_body": '{"use_beam_search": true}'}, "extra_body sets use_beam_search,"),
        ({"headers": "[1]"}, "not a JSON object"),
        ({"headers": '{"A": "b\\r\\nC: d"}'}, "line break"),
        ({"api_key_file": "/nonexistent/key"}, "key file"),
        ({"transport": "carrier-pigeon"}, "use auto, lean or aiohttp"),
        ({"base_ur": "x"}, "base_url"),
    ],
)
async def test_bad_options_are_named(options, cause):
    engine = OpenAIEngine()
    with pytest.raises(BadOption, match=cause):
        await engine.start(None, options)
    await engine.close()


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
@pytest.mark.parametrize(
    ("path", "cause", "fix"),
    [
        ("unauthorized", "refuses access", "OPENAI_API_KEY"),
        ("html", "not an OpenAI-compatible server", "--base-url"),
        ("server_error", "can't reach", "--ready-check-timeout-sec"),
    ],
)
async def test_a_server_that_will_not_do_is_named_at_start(path, cause, fix, transport, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with HostileServer(SMALL) as server:
        engine = OpenAIEngine()
        with pytest.raises(EngineUnavailable) as caught:
            await engine.start(None, {"base_url": f"{server.url}/{path}", "transport": transport})
        await engine.close()
    assert cause in caught.value.cause
    assert fix in caught.value.fix


async def test_a_server_without_a_model_list_needs_the_model_named():
    async with HostileServer(SMALL) as server:
        engine = OpenAIEngine()
        with pytest.raises(EngineUnavailable, match="--model"):
            await engine.start(None, {"base_url": f"{server.url}/not_found"})
        info = await engine.start(Model(name="honest"), {"base_url": f"{server.url}/not_found"})
        assert info.model == "honest"
        await engine.close()


async def test_a_model_that_is_not_listed_is_asked_for_and_noted():
    async with HostileServer(SMALL) as server:
        engine = OpenAIEngine()
        info = await engine.start(Model(name="gpt-9"), {"base_url": server.url})
        await engine.close()
    assert any("does not list the model 'gpt-9'" in note and "honest" in note for note in info.notes)


async def test_completions_and_the_first_model_of_the_list():
    async with ReferenceServer({"ttft_ms": "1", "itl_ms": "1"}) as server:
        engine = OpenAIEngine()
        info = await engine.start(None, {"base_url": server.url, "endpoint": "/v1/completions"})
        sink = Collected()
        worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig())
        await worker.run_closed(iter([make_request(0, 7)]), 1, monotonic_ns())
        await engine.close()
    assert info.max_model_len == 131_072
    record = sink.records[0]
    assert (record.outcome, record.output_tokens, record.token_source) == ("ok", 7, "usage")


async def test_usage_that_was_not_asked_for_is_not_taken():
    async with HostileServer(SMALL) as server:
        (record,) = await ask(server.url, "usage_too_small", options={"usage": "false"})
        (taken,) = await ask(server.url, "usage_too_small")
    assert (record.outcome, record.output_tokens, record.usage_tokens, record.prompt_tokens) == ("ok", 4, None, None)
    assert (taken.output_tokens, taken.token_source, taken.usage_tokens, taken.shown_tokens) == (4, "chunks", 1, 4)


async def test_without_usage_chunks_are_counted_and_said():
    async with ReferenceServer({"ttft_ms": "1", "itl_ms": "1"}) as server:
        engine = OpenAIEngine()
        info = await engine.start(None, {"base_url": server.url, "usage": "false"})
        sink = Collected()
        worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig())
        await worker.run_closed(iter([make_request(0, 7)]), 1, monotonic_ns())
        await engine.close()
    record = sink.records[0]
    assert (record.output_tokens, record.token_source, record.prompt_tokens) == (7, "chunks", None)
    assert "usage" not in info.reports
    assert any("token counts from chunks (usage is off)" in note for note in info.notes)
