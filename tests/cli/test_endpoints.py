"""Other ways to ask than a chat in words, through the command line and over real servers: token ids, vectors, scores, responses."""

from __future__ import annotations

import asyncio
import base64
import json
import re

import pytest
import yaml

from tests.cli.helpers import bmp, run_folder, started_server
from tests.engines.small_server import answering, models, page
from tests.engines.test_openai_responses import ended, events, text

ASK = ("serve-bench", "--engine", "openai", "--scenario", "smoke", "--num-warmups", "0", "--request-rate", "50", "--num-prompts", "60")


def test_token_ids_are_sent_at_their_exact_length_and_refused_by_a_chat(tmp_path):
    words = (*ASK, "--input-len", "40", "--random-prefix-len", "8", "--output-len", "5", "--tokenize-prompt", "--base-url")
    with started_server("ttft_ms=2") as url:
        ended = bmp(*words, url, "--endpoint", "/v1/completions", cwd=tmp_path)
        refused = bmp(*words, url, cwd=tmp_path)
    folder = run_folder(ended.stdout, tmp_path)
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [(record["prompt_tokens"], record["output_tokens"]) for record in records] == [(48, 5)] * 60
    assert "exact: token ids" in json.loads((folder / "run.json").read_text())["prompts"]["lengths"]
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1] == (
        "error: this endpoint takes text, not token ids; add --endpoint /v1/completions, or leave out --tokenize-prompt"
    )


def answer(asked):
    """A server of everything but chats."""
    if asked.method == "GET":
        return models("m")
    if asked.target.endswith("/embeddings"):
        inputs = asked.body["input"]
        data = [{"index": place, "embedding": [0.5, 1.5]} for place in range(len(inputs))]
        return page("200 OK", {"data": data, "usage": {"prompt_tokens": sum(len(each.split()) for each in inputs), "total_tokens": 1}})
    if asked.target.endswith("/rerank"):
        return page("200 OK", {"results": [{"index": place, "relevance_score": 0} for place in range(len(asked.body["documents"]))]})
    return events(*text(*"abcd"), *ended())


def asked_of_a_server(tmp_path, *words):
    """The run, and what the server was asked."""

    async def run():
        async with answering(answer) as server:
            ended = await asyncio.to_thread(bmp, *ASK, "--base-url", server.url, *words, cwd=tmp_path)
            return ended, [asked.body for asked in server.seen if asked.method == "POST"]

    ended, seen = asyncio.run(run())
    assert ended.returncode in (0, 1), ended.stderr  # a busy machine sends late
    folder = run_folder(ended.stdout, tmp_path)
    return ended, seen, json.loads((folder / "summary.json").read_text()), folder


def test_vectors_have_latency_and_rates_and_nothing_of_tokens_out(tmp_path):
    words = ("--endpoint", "/v1/embeddings", "--input-len", "9", "--batch-size", "3", "--goodput", "e2el:60000", "--tokenizer", "words")
    ended, seen, summary, folder = asked_of_a_server(tmp_path, *words, "--csv", "--save-result", "--llm-d")
    assert {len(body["input"]) for body in seen} == {3}
    assert len({each for body in seen[1:] for each in body["input"]}) == 180  # no input comes twice
    assert set(summary["metrics"]) == {"e2e", "service_e2e", "schedule_lateness", "client_lateness"}
    assert set(summary["rates"]) == {"request_throughput", "input_token_throughput", "input_throughput"}
    requests, tokens, inputs = (summary["rates"][f"{name}_throughput"]["overall"] for name in ("request", "input_token", "input"))
    assert (inputs, tokens) == (pytest.approx(3 * requests), pytest.approx(27 * requests))
    assert (summary["goodput"]["share"], summary["tokens"]["prompt_tokens"], summary["client_error"]) == (1.0, 60 * 27, None)
    assert not [warning for warning in summary["warnings"] if "token" in warning or "response" in warning]
    shown = ended.stdout + re.sub(r"<script.*?</script>|<div popover.*?</div>", "", (folder / "report.html").read_text(), flags=re.S)
    assert "3 inputs a request" in shown
    assert not re.search(r"TTFT|TPOT|ITL|tokens out|output token|first token", shown)
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0
    assert bmp("summarize", str(folder), cwd=tmp_path).returncode == ended.returncode
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert json.loads((folder / "vllm-bench.json").read_text())["backend"] == "openai-embeddings"
    report = yaml.safe_load((folder / "llm-d-report.yaml").read_text())
    assert "output_seq_len" not in report["scenario"]["load"]["standardized"]
    assert "output_length" not in report["results"]["request_performance"]["aggregate"]["requests"]


def test_a_rerank_has_a_query_and_documents_and_may_find_its_own_rate(tmp_path):
    words = ("--endpoint", "/v1/rerank", "--batch-size", "4", "--request-rate", "auto", "--num-prompts", "30")
    ended, seen, summary, _ = asked_of_a_server(tmp_path, *words)
    assert "requests/s at" in ended.stderr
    assert "tokens a request" not in ended.stderr
    assert {len(body["documents"]) for body in seen} == {4}
    assert len({body["query"] for body in seen[-30:]}) == 30
    assert "input_token_throughput" not in summary["rates"]  # the server counts none
    assert "tokens in" not in ended.stdout


def test_responses_have_figures_as_a_chat_has(tmp_path):
    _, seen, summary, _ = asked_of_a_server(tmp_path, "--endpoint", "/v1/responses", "--output-len", "4")
    assert {body["max_output_tokens"] for body in seen} == {4}
    assert {"ttft", "tpot", "e2e"} <= set(summary["metrics"])
    assert (summary["tokens"]["output_tokens"], summary["tokens"]["usage_disagreement"]) == (240, 0.0)


def test_images_are_drawn_at_their_size_and_their_bytes_counted(tmp_path):
    ended, seen, summary, folder = asked_of_a_server(tmp_path, "--endpoint", "/v1/responses", "--images", "40x30*2", "--output-len", "4")
    urls = [part["image_url"] for body in seen[1:] for part in body["input"][-1]["content"] if part["type"] == "input_image"]
    sizes = [len(base64.b64decode(url.partition(",")[2])) for url in urls]
    assert (len(urls), len(set(urls))) == (120, 120)
    assert (summary["tokens"]["images"], summary["tokens"]["image_bytes"]) == (120, sum(sizes))
    assert "images in" in ended.stdout
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [(record["images"], record["image_bytes"]) for record in records] == [(2, sizes[0] + sizes[1])] * 60
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0


def test_levels_of_tokens_are_not_of_vectors(tmp_path):
    async def run():
        async with answering(answer) as server:
            words = (*ASK, "--base-url", server.url, "--endpoint", "/v1/embeddings", "--goodput", "ttft:500")
            return await asyncio.to_thread(bmp, *words, cwd=tmp_path)

    refused = asyncio.run(run())
    assert refused.stderr.splitlines()[-1] == "error: embeddings have no TTFT and no TPOT; give --goodput e2el:MS"
