"""The openai engine against a real vLLM server process on this CPU, shared by all tests here."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from importlib.util import find_spec

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.record.gauges import read_gauges
from bytemlperf_llm.run.preflight import ready_check
from engines.contract import EngineUnavailable, Message, Model, Request
from engines.openai.engine import OpenAIEngine
from tests.cli.helpers import bmp, run_folder, start
from tests.engines.vllm_server import KEY, VllmServer
from tests.virtual import Collected

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")]
CONTEXT = 2048


@pytest.fixture(scope="module")
def server(synthetic: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    running = VllmServer(str(synthetic.path), tmp_path_factory.mktemp("server") / "log", CONTEXT)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture
def server_url(server: VllmServer) -> str:
    return server.url


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def chat(index: int, max_tokens: int = 16, text: str = "Say something.") -> Request:
    return Request(index=index, id=f"r{index}", max_tokens=max_tokens, messages=(Message(role="user", content=text),))


async def replay(url: str, requests: list[Request], concurrency: int = 4, **options: str):
    engine = OpenAIEngine()
    try:
        info = await engine.start(None, {"base_url": url} | options)
        sink = Collected()
        worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig(keep_output=True))
        await worker.run_closed(iter(requests), concurrency, monotonic_ns())
    finally:
        await engine.close()
    return info, sink.by_index()


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/completions"])
async def test_streams_exactly_what_was_asked(server_url, endpoint, transport):
    lengths = [1, 2, 16, 40, 64, 3]
    requests = [chat(index, length) for index, length in enumerate(lengths)]
    info, records = await replay(server_url, requests, endpoint=endpoint, transport=transport)
    assert (info.model, info.max_model_len) == ("tiny", CONTEXT)
    for record, length in zip(records, lengths, strict=True):
        assert (record.outcome, record.error_detail) == ("ok", "")
        assert record.output_tokens == sum(record.tokens_per_chunk) == length
        assert (record.token_source, record.finish_reason) == ("usage", "length")
        assert record.prompt_tokens
        assert record.sent_ns < record.first_byte_ns <= record.chunk_ns[-1] <= record.end_ns
        assert len(record.output) > 0


async def test_token_ids_are_the_prompt_as_they_stand(server_url):
    requests = [Request(index=index, id=f"r{index}", max_tokens=4, token_ids=(40,) * (index + 5)) for index in range(3)]
    _, records = await replay(server_url, requests, endpoint="/v1/completions")
    assert [(record.outcome, record.prompt_tokens, record.output_tokens) for record in records] == [
        ("ok", index + 5, 4) for index in range(3)
    ]


async def test_responses_stream_and_are_counted(server_url):
    _, records = await replay(server_url, [chat(index, 24) for index in range(3)], endpoint="/v1/responses")
    for record in records:
        assert (record.outcome, record.error_detail, record.output_tokens, record.token_source) == ("ok", "", 24, "usage")
        assert record.prompt_tokens
        assert record.shown_tokens > 12


async def test_both_transports_and_endpoints_agree_on_the_text(server_url):
    texts = set()
    for transport in ("lean", "aiohttp"):
        _, (record,) = await replay(server_url, [chat(0, 32)], transport=transport)
        texts.add(record.output)
    assert len(texts) == 1


async def test_a_prompt_too_long_is_a_context_length_failure(server_url):
    _, (record,) = await replay(server_url, [chat(0, text="x" * 2 * CONTEXT)])
    assert (record.outcome, record.error_class) == ("failed", "context_length")


async def test_a_wrong_key_and_a_wrong_model_are_named(server_url, monkeypatch):
    engine = OpenAIEngine()
    info = await engine.start(Model(name="big"), {"base_url": server_url})
    with pytest.raises(UserError, match=r"big.*check --model: the server lists"):
        await ready_check(engine, info, chat(0), Timeouts(), Redactor())
    await engine.close()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key")
    with pytest.raises(EngineUnavailable, match="refuses access") as caught:
        await OpenAIEngine().start(None, {"base_url": server_url})
    assert "sk-wrong-key" not in str(caught.value)


async def test_a_cancelled_request_leaves_the_server_working(server_url):
    engine = OpenAIEngine()
    await engine.start(None, {"base_url": server_url})
    sink = Collected()
    worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig(drain_ns=200_000_000))
    await worker.run_closed(iter([chat(0, 400)]), 1, monotonic_ns(), end_ns=monotonic_ns() + 50_000_000)
    await engine.close()
    assert sink.records[0].outcome in ("in_flight", "ok")
    _, records = await replay(server_url, [chat(index) for index in range(4)])
    assert {record.outcome for record in records} == {"ok"}


def test_serve_bench_against_it(server_url, tmp_path):
    words = (
        "serve-bench",
        "--engine",
        "openai",
        "--base-url",
        server_url,
        "--scenario",
        "smoke",
        "--request-rate",
        "8",
        "--num-prompts",
        "16",
    )
    ended = bmp(*words, "--output-len", "8", "--drain", "60", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    folder = run_folder(ended.stdout, tmp_path)
    summary = msgspec.json.decode((folder / "summary.json").read_bytes())
    assert summary["outcomes"]["ok"] == 16, summary["failures"]
    gauges = read_gauges(folder)
    assert {"running", "waiting", "kv_cache_usage", "preemptions"} <= gauges.samples[0].gauges.keys()
    assert not gauges.damages


def test_answers_too_long_for_the_context_end_before_the_first_request(server_url, tmp_path):
    words = ("serve-bench", "--engine", "openai", "--base-url", server_url, "--scenario", "smoke", "--output-len", "4000")
    ended = bmp(*words, cwd=tmp_path)
    assert ended.returncode == 2
    assert "context length" in ended.stderr
    assert "--output-len" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("runs/*"))


def test_killed_and_started_again_in_mid_run(server, tmp_path):
    """Last in this file: the run survives the server's crash and restart, and reports both."""
    words = (
        "serve-bench",
        "--engine",
        "openai",
        "--base-url",
        server.url,
        "--scenario",
        "smoke",
        "--request-rate",
        "4",
        "--num-prompts",
        "100000",
    )
    process = start(*words, "--output-len", "8", "--num-warmups", "0", "--connect-timeout", "5", cwd=tmp_path)
    try:
        log = _log_with(tmp_path, 12, process)
        server.kill()
        _log_with(tmp_path, log.read_bytes().count(b"\n") + 8, process)
        server.start()
        recovered_at = log.read_bytes().count(b"\n")
        _log_with(tmp_path, recovered_at + 12, process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    summary = msgspec.json.decode((run_folder(stdout, tmp_path) / "summary.json").read_bytes())
    assert "Traceback" not in stderr
    assert summary["failures"].keys() <= {"connection_refused", "connection_reset", "stale_connection", "truncated_stream"}
    (outage,) = summary["outages"]
    assert outage["failed_requests"] == summary["outcomes"]["failed"] >= 8
    assert outage["recovery_ns"] > 1_000_000_000
    (fault,) = summary["faults"]
    assert (fault["kind"], fault["lost_requests"]) == ("outage", outage["failed_requests"])
    assert fault["recovered_ns"] >= outage["recovered_ns"]
    assert "\noutage" in stdout
    assert summary["outcomes"]["ok"] >= 20


def _log_with(place, count, process, limit_s=120):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        logs = list(place.glob("runs/*/records.jsonl"))
        if logs and logs[0].read_bytes().count(b"\n") >= count:
            return logs[0]
        time.sleep(0.1)
    raise AssertionError(f"no {count} records in {limit_s} s")
