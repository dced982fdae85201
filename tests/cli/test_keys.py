"""A key that a server gives back in every way it can is in nothing that a run leaves or says."""

from __future__ import annotations

import asyncio
import json
import re

from tests.cli.helpers import bmp
from tests.engines.small_server import EVENT, answering, error, models, page
from tests.export.receivers import otlp_server

KEYS = {
    "bearer": "sk-canary-bearer-0123456789",
    "header": "canary-header-0123456789",
    "body": "canary-body-0123456789",
    "query": "canary-query-0123456789",
}
CANARY = re.compile(rb"canary|[\x00-\x08\x1b]\[31m")


def echoed(asked) -> str:
    """Everything that was sent, in red, each secret with its scheme and without."""
    bare = [value.removeprefix("Bearer ") for value in asked.headers.values()]
    return f"\x1b[31m {asked.target} {bare} {asked.headers} {asked.body.get('provider')}"


def answer(asked):
    """By turns: an error that says it, an error that is cut in the middle of it, an error in the stream, a finish reason."""
    turn = int(asked.headers.get("x-request-id", "r0-0").rsplit("-", 1)[-1] or 0) if asked.method == "POST" else 0
    if asked.method == "GET":
        return models("lab", echoed(asked)[:150])
    if "-ready-" in asked.headers["x-request-id"]:
        turn = 3
    if turn % 4 == 0:
        return error("400 Bad Request", echoed(asked))
    if turn % 4 == 1:
        return page("500 Internal Server Error", b"x" * 3990 + KEYS["bearer"].encode(), kind="text/plain")
    end = {"error": {"message": echoed(asked)}} if turn % 4 == 2 else None
    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": f"length {KEYS['bearer']} {echoed(asked)}"}]}
    events = [*[EVENT] * 20, end or finish]
    data = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"
    return page("200 OK", data, kind="text/event-stream")


def test_a_key_that_comes_back_is_found_nowhere(tmp_path):
    async def run():
        async with answering(answer) as server:
            words = (
                "serve-bench", "--engine", "openai", "--base-url", f"{server.url}?code={KEYS['query']}", "--model", "unlisted",
                "--header", f"X-Api-Key: {KEYS['header']}", "--extra-body", json.dumps({"provider": {"api_key": KEYS["body"]}}),
                "--scenario", "smoke", "--request-rate", "40", "--num-prompts", "12", "--num-warmups", "0", "--output-len", "20",
                "--keep-output", "--save-result", "--save-detailed", "--csv", "--otlp", receiver.url,
            )  # fmt: skip
            return await asyncio.to_thread(bmp, *words, cwd=tmp_path, env={"OPENAI_API_KEY": KEYS["bearer"]})

    with otlp_server() as receiver:
        ended = asyncio.run(run())
    (records,) = tmp_path.glob("runs/*/records.jsonl")
    kept = [json.loads(line) for line in records.read_text().splitlines()]
    assert {record["error_class"] for record in kept if record["outcome"] == "failed"} >= {"http_4xx", "http_5xx", "error_in_stream"}
    assert "[redacted]" in ended.stderr
    places = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places |= {"stdout": ended.stdout.encode(), "stderr": ended.stderr.encode(), "spans": str(receiver.spans).encode()}
    assert receiver.spans
    assert {name: CANARY.search(data) for name, data in places.items() if CANARY.search(data)} == {}
