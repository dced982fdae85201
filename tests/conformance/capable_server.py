"""A server that can do all that a card asks about, or all but one thing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.engines.small_server import Asked, error, models, page

NATURAL_TOKENS = 5
CONTEXT = 4096


@dataclass
class Capable:
    """`lacking` is the one thing that it does wrong."""

    lacking: str = ""
    sent: int = 0

    def __call__(self, asked: Asked) -> bytes | list[bytes]:
        if asked.method == "GET":
            return self._page(asked.target)
        body = asked.body
        if refused := self._refused(body):
            return refused
        self.sent += 1
        tokens, reason = self._tokens(body)
        prompt = body["messages"][-1]["content"]
        return self._streamed(body, tokens, reason, prompt) if body.get("stream") else self._whole(body, tokens, reason, prompt, asked)

    def _page(self, target: str) -> bytes:
        pages = {
            "/v1/models": page("200 OK", {"data": [{"id": "m", "max_model_len": CONTEXT}]}),
            "/version": page("200 OK", {"version": "1.2.3"}),
            "/metrics": page("200 OK", b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n", kind="text/plain"),
        }
        lost = {"model list": "/v1/models", "metrics page": "/metrics"}.get(self.lacking)
        return models("other") if target == lost == "/v1/models" else error("404 Not Found", "no") if target == lost else pages[target]

    def _refused(self, body: dict[str, Any]) -> bytes:
        if self.lacking == "errors":
            return b""
        if body.get("temperature", 0) < 0 or body.get("model") != "m":
            return error("400 Bad Request", "bad field")
        if len(body["messages"][-1]["content"].split()) > CONTEXT and self.lacking != "too long a prompt":
            return error("400 Bad Request", f"maximum context length is {CONTEXT} tokens")
        return b""

    def _tokens(self, body: dict[str, Any]) -> tuple[list[str], str]:
        """As many as are asked for; a count of them, or drawn by the seed."""
        limit = body["max_tokens"] + (self.lacking == "max_tokens")
        natural = NATURAL_TOKENS if "one word" in body["messages"][-1]["content"] else 10_000
        if body.get("ignore_eos") and self.lacking != "ignore_eos":
            natural = 10_000
        if self.lacking != "min_tokens":
            natural = max(natural, body.get("min_tokens", 0))
        count, reason = (limit, "length") if limit <= natural else (natural, "stop")
        base = 100 * (body.get("seed") or 0) if body.get("temperature") and self.lacking != "seeds" else 0
        drift = self.sent if self.lacking == "greedy alone" else 0
        tokens = [f" {base + drift + place}" for place in range(count)]
        stops = body.get("stop") or []
        cut = next((place for place, token in enumerate(tokens) if token.strip() in stops), None)
        if cut is not None and self.lacking != "stop strings":
            tokens, reason = tokens[:cut], "stop"
        return tokens, "other" if self.lacking == "stop reasons" else reason

    def _usage(self, prompt: str, tokens: list[str]) -> dict[str, Any]:
        output = len(tokens) + 3 * (self.lacking == "usage")
        cached = {} if self.lacking == "cached tokens" else {"prompt_tokens_details": {"cached_tokens": len(prompt.split()) // 2}}
        return {"prompt_tokens": len(prompt.split()), "completion_tokens": output, "total_tokens": len(prompt.split()) + output, **cached}

    def _streamed(self, body: dict[str, Any], tokens: list[str], reason: str, prompt: str) -> list[bytes]:
        events: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": token}}]} for token in tokens]
        if "Think" in prompt and self.lacking != "reasoning":
            events[0]["choices"][0]["delta"] = {"reasoning_content": tokens[0]}
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        events = [end, *events] if self.lacking == "streaming order" else [*events, end]
        events.append({"choices": [], "usage": self._usage(prompt, tokens)})
        lines = [b"data: %b\n\n" % json.dumps({"id": "one", **event}).encode() for event in events]
        chunks = [*lines, b"data: [DONE]\n\n"]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        framed = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
        return [head + framed[0], b"".join(framed[1:]) + b"0\r\n\r\n"]

    def _whole(self, body: dict[str, Any], tokens: list[str], reason: str, prompt: str, asked: Asked) -> bytes:
        choice: dict[str, Any] = {"index": 0, "message": {"content": "".join(tokens)}, "finish_reason": reason}
        if body.get("logprobs") and self.lacking != "logprobs":
            choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.1}]}
        if body.get("tools") and self.lacking != "tools":
            choice["message"] = {"tool_calls": [{"function": {"name": "get_weather", "arguments": "{}"}}]}
        count = 1 if self.lacking == "several answers (n)" else body.get("n", 1)
        answer = {"choices": [{**choice, "index": place} for place in range(count)], "usage": self._usage(prompt, tokens)}
        more = "connection: close\r\n" if self.lacking == "keep-alive" else ""
        packed = asked.headers.get("accept-encoding") == "gzip" and self.lacking != "compression"
        return page("200 OK", answer, more + ("content-encoding: gzip\r\n" if packed else ""))
