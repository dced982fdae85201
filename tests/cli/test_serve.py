"""`bmp-llm serve`: an engine of the contract over HTTP, asked by the command's own client and by hand."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import bmp, run_folder, start

QUESTION = [{"role": "user", "content": "one two"}]


@pytest.fixture
def address() -> Iterator[str]:
    process = start("serve", "--engine", "reference", "--port", "0", "--engine-option", "ttft_ms=5", cwd=Path())
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    assert process.wait(timeout=30) == 0


def asked(url: str, **body: Any) -> tuple[int, bytes]:
    """Status and body of one POST."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_an_engine_is_measured_over_http_as_in_process(address: str, tmp_path: Path) -> None:
    words = ("--scenario", "smoke", "--request-rate", "50", "--num-prompts", "30", "--num-warmups", "0", "--output-len", "7", "--quiet")
    ended = bmp("serve-bench", "--base-url", address, *words, cwd=tmp_path)
    assert ended.returncode in (0, 3), ended.stderr
    lines = (run_folder(ended.stdout, tmp_path) / "records.jsonl").read_text().splitlines()
    assert [(record["outcome"], record["output_tokens"]) for record in map(json.loads, lines)] == [("ok", 7)] * 30


def test_streamed_and_whole_answers_say_the_same(address: str) -> None:
    ask = {"messages": QUESTION, "max_tokens": 5}
    _, whole = asked(f"{address}/v1/chat/completions", **ask)
    _, stream = asked(f"{address}/v1/chat/completions", **ask, stream=True)
    events = [json.loads(line.removeprefix(b"data: ")) for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    text = "".join(event["choices"][0]["delta"]["content"] for event in events)
    answer = json.loads(whole)
    assert text == answer["choices"][0]["message"]["content"] != ""
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * 5 + ["length"]
    assert answer["usage"] == events[-1]["usage"]
    assert answer["usage"]["completion_tokens"] == 5
    _, plain = asked(f"{address}/v1/completions", prompt="one two", max_tokens=2)
    assert json.loads(plain)["choices"][0]["text"]


@pytest.mark.parametrize(
    "body", [{}, {"messages": []}, {"messages": QUESTION, "max_tokens": -1}, {"messages": [{"role": "x", "content": ""}]}]
)
def test_what_cannot_be_answered_is_a_bad_request(address: str, body: dict[str, Any]) -> None:
    status, answer = asked(f"{address}/v1/chat/completions", **body)
    assert status == 400
    assert json.loads(answer)["error"]["code"] == "invalid_request"


def test_a_failure_of_the_engine_is_a_server_error(tmp_path: Path) -> None:
    process = start("serve", "--engine", "reference", "--port", "0", "--engine-option", "fail_every=1", cwd=tmp_path)
    assert process.stdout is not None
    try:
        url = f"{process.stdout.readline().strip()}/v1/completions"
        for stream in (False, True):
            status, answer = asked(url, prompt="a", max_tokens=2, stream=stream)
            assert status == 500
            assert "error" in json.loads(answer)
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_an_engine_that_asks_a_server_is_refused(tmp_path: Path) -> None:
    ended = bmp("serve", "--engine", "openai", cwd=tmp_path)
    assert ended.returncode == 2
    assert "asks a server already" in ended.stderr
