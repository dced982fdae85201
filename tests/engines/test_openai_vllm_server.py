"""The openai engine against a real vLLM server process on this CPU, shared by all tests here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec

import msgspec
import pytest

from bytemlperf_llm.loadgen.pacer import LoopPacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from engines.contract import EngineUnavailable, Message, Model, Request
from engines.openai import OpenAIEngine
from tests.cli.helpers import bmp, run_folder
from tests.virtual import Collected

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")]
START_LIMIT_S = 240
CONTEXT = 2048


@pytest.fixture(scope="module")
def server_url(synthetic: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "VLLM_API_KEY": "sk-test-of-the-server",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(synthetic.path), "--served-model-name", "tiny", "--enforce-eager", "--max-model-len", str(CONTEXT)]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"vLLM's server did not come up: {log.read_text()[-3000:]}")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-of-the-server")


def chat(index: int, max_tokens: int = 16, text: str = "Say something.") -> Request:
    return Request(index=index, id=f"r{index}", max_tokens=max_tokens, messages=(Message(role="user", content=text),))


async def replay(url: str, requests: list[Request], concurrency: int = 4, **options: str):
    engine = OpenAIEngine()
    try:
        info = await engine.start(None, {"base_url": url} | options)
        sink = Collected()
        worker = Worker(engine, sink, LoopPacer(monotonic_ns), WorkerConfig(keep_output=True))
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
    with pytest.raises(EngineUnavailable, match="does not serve the model 'big'"):
        await OpenAIEngine().start(Model(name="big"), {"base_url": server_url})
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key")
    with pytest.raises(EngineUnavailable, match="refuses access") as caught:
        await OpenAIEngine().start(None, {"base_url": server_url})
    assert "sk-wrong-key" not in str(caught.value)


async def test_a_cancelled_request_leaves_the_server_working(server_url):
    engine = OpenAIEngine()
    await engine.start(None, {"base_url": server_url})
    sink = Collected()
    worker = Worker(engine, sink, LoopPacer(monotonic_ns), WorkerConfig(drain_ns=200_000_000))
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
    summary = msgspec.json.decode((run_folder(ended.stdout, tmp_path) / "summary.json").read_bytes())
    assert summary["outcomes"]["ok"] == 16, summary["failures"]


def test_answers_too_long_for_the_context_end_before_the_first_request(server_url, tmp_path):
    words = ("serve-bench", "--engine", "openai", "--base-url", server_url, "--scenario", "smoke", "--output-len", "4000")
    ended = bmp(*words, cwd=tmp_path)
    assert ended.returncode == 2
    assert "tokens of context" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("runs/*"))
