"""A server with a prefix cache of words, which counts as vLLM's does: whole blocks, never the whole prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tests.engines.small_server import END, EVENT, Asked, error, models, page

BLOCK = 4


@dataclass
class Caching:
    """`answer` is for `answering`. `resets` is the path that empties the cache, `reports` whether usage says what was cached, `most_blocks`
    what the cache holds, oldest out first. Counters are on its page of metrics, as vLLM has them."""

    resets: str = ""
    reports: bool = True
    refusals: int = 0
    most_blocks: int = 1_000_000
    blocks: dict[tuple[str, ...], None] = field(default_factory=dict)
    prompts: list[list[str]] = field(default_factory=list)
    queries: int = 0
    hits: int = 0

    def answer(self, asked: Asked) -> bytes:
        if asked.method == "GET":
            return self._page(asked.target)
        if asked.target == self.resets:
            self.refusals -= 1
            if self.refusals < 0:
                self.blocks.clear()
            return page("200 OK", {"success": self.refusals < 0})
        if not asked.target.endswith("/completions"):
            return error("404 Not Found", "no such path")
        return self._completion(asked)

    def _page(self, target: str) -> bytes:
        if target == "/metrics":
            lines = (f"vllm:prefix_cache_queries_total{{}} {self.queries}", f"vllm:prefix_cache_hits_total{{}} {self.hits}")
            return page("200 OK", "\n".join(lines).encode(), kind="text/plain")
        return models("lab")

    def _completion(self, asked: Asked) -> bytes:
        texts = [message["content"] for message in asked.body.get("messages", [])] or [asked.body["prompt"]]
        self.prompts.append(texts)
        words = " ".join(texts).split()
        cached = self.cached(words)
        usage = {"prompt_tokens": len(words), "completion_tokens": asked.body["max_tokens"]}
        if self.reports:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}  # type: ignore[assignment]
        events = [*[EVENT] * asked.body["max_tokens"], END, {"choices": [], "usage": usage}]
        stream = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"
        return page("200 OK", stream, kind="text/event-stream")

    def cached(self, words: list[str]) -> int:
        """How many of a prompt's words are there; all of its blocks are afterwards."""
        starts = [tuple(words[:end]) for end in range(BLOCK, len(words) + 1, BLOCK)]
        usable = starts if len(words) % BLOCK else starts[:-1]
        count = next((place for place, start in enumerate(usable) if start not in self.blocks), len(usable))
        self.blocks |= dict.fromkeys(starts)
        while len(self.blocks) > self.most_blocks:
            del self.blocks[next(iter(self.blocks))]
        self.queries += len(words)
        self.hits += count * BLOCK
        return count * BLOCK
