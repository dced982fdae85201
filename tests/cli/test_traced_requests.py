"""`--trace-requests` from start to end: a server on loopback that is sent a traceparent, and sends the spans of what it did."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time

import pytest

from bytemlperf_llm.spans.receiver import PATH
from engines.trace_context import traceparent
from tests.cli.helpers import bmp, run_folder
from tests.engines.small_server import STREAM, models, page
from tests.engines.small_server import answering as answering_with
from tests.spans.made import json_export, protobuf_export

QUEUE_S, WORK_S = 0.002, 0.01
SECRET = "canary-header-0123456789"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def export(port: int, body: bytes, kind: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", PATH, body, {"Content-Type": kind})
    connection.getresponse()
    connection.close()


def answering(port: int):
    """Each answer takes a while, and its spans leave from a thread of their own: vLLM's, and one that has a secret for a name."""

    def answer(asked):
        if asked.method == "GET":
            return models("lab")
        start_ns = time.time_ns()
        time.sleep(WORK_S)
        took_s = (time.time_ns() - start_ns) / 1e9
        trace_id = int(asked.headers["traceparent"].split("-")[1], 16)
        latencies = {"time_in_queue": QUEUE_S, "time_in_model_prefill": took_s - QUEUE_S, "time_to_first_token": took_s}
        latencies |= {"time_in_model_decode": 0.0, "e2e": took_s}
        exports = [
            (protobuf_export(trace_id, start_ns, time.time_ns(), latencies=latencies), "application/x-protobuf"),
            (json_export(trace_id, start_ns, time.time_ns(), name=f"route {SECRET}"), "application/json"),
            (b"garbage", "application/json"),
        ]
        for body, kind in exports:
            threading.Thread(target=export, args=(port, body, kind)).start()
        return page("200 OK", STREAM, "server-timing: cache;dur=0.5\r\nx-request-id: theirs\r\n", kind="text/event-stream")

    return answer


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_servers_spans_are_joined_to_the_requests(tmp_path, workers):
    port = free_port()

    async def run():
        async with answering_with(answering(port)) as server:
            words = (
                "serve-bench", "--base-url", server.url, "--model", "lab", "--header", f"X-Api-Key: {SECRET}", "--scenario", "smoke",
                "--request-rate", "20", "--num-prompts", "8", "--num-warmups", "1", "--output-len", "4", "--trace-port", str(port),
                "--verbose", "--workers", workers,
            )  # fmt: skip
            return await asyncio.to_thread(bmp, *words, cwd=tmp_path), [each for each in server.seen if each.method == "POST"]

    ended, seen = asyncio.run(run())
    folder = run_folder(ended.stdout, tmp_path)
    records = [json.loads(line) for path in folder.glob("records*.jsonl") for line in path.read_text().splitlines()]
    assert {traceparent(folder.name, record["id"]) for record in records} <= {each.headers["traceparent"] for each in seen}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["spans"]["requests"] == 8
    assert summary["spans"]["unmatched"] > 0, "the first request's and the warm-up's"
    assert summary["spans"]["applied_ns"] == 0
    assert summary["metrics"]["stage_queue"]["mean"] == QUEUE_S * 1e9
    assert summary["metrics"]["stage_prefill"]["count"] == 8
    times = summary["server_times"]
    assert (times["durations"]["cache"]["mean"], times["durations"]["queue"]["mean"], times["own_ids"]) == (5e5, QUEUE_S * 1e9, 8)
    assert any("no OTLP message" in text for text in summary["warnings"])
    assert "Server, per request" in ended.stdout
    assert not [path.name for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0
