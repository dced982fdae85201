"""What a server says of itself on `/metrics`, in this project's words: queue, KV cache, prefix hits, preemptions.

Asked about once a second by a thread of its own, so that no stamp waits for it; a server that has no such
page is asked once. Nothing of the page but the numbers below is kept, and no key is sent. Names of
vLLM (docs: Production Metrics) and of SGLang (docs: Production Metrics).
"""

from __future__ import annotations

import math
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

PERIOD_S = 1.0
TIMEOUT_S = 2.0
MAX_PAGE_BYTES = 4 * 1024 * 1024
MAX_SAMPLES = 1_000

GAUGES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_usage",
    "vllm:gpu_cache_usage_perc": "kv_cache_usage",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prefix_cache_queries_total": "prefix_queries",
    "vllm:prefix_cache_hits_total": "prefix_hits",
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:token_usage": "kv_cache_usage",
    "sglang:cache_hit_rate": "prefix_cache_hit_rate",
    "sglang:prompt_tokens_total": "prefix_queries",
    "sglang:cached_tokens_total": "prefix_hits",
}
COUNTS = ("prefix_queries", "prefix_hits")
SHARES = {"kv_cache_usage", "prefix_cache_hit_rate"}
"""Of several engines behind one page the fullest is told; everything else is their sum."""

_STARTS = tuple(name.encode() for name in GAUGES)


def gauges_of(page: bytes) -> dict[str, float]:
    """The known gauges of a page in Prometheus' text format; empty where it has none."""
    values, counts = _values(page), prefix_counts_of(page)
    if counts is not None and counts[1] is not None:
        values["prefix_cache_hit_rate"] = counts[1] / counts[0] if counts[0] else 0.0
    return {name: value for name, value in values.items() if name not in COUNTS}


def prefix_counts_of(page: bytes) -> tuple[int, int | None] | None:
    """Tokens looked up in the prefix cache and tokens found there, since the server's start; None where a page doesn't say. SGLang has no
    counter of hits before the first one."""
    queries, hits = map(_values(page).get, COUNTS)
    return None if queries is None else (round(queries), None if hits is None else round(hits))


def _values(page: bytes) -> dict[str, float]:
    values: dict[str, float] = {}
    for sample in samples_of(page, _STARTS, MAX_SAMPLES):
        if gauge := GAUGES.get(sample.name):
            before = values.get(gauge, 0.0)
            values[gauge] = max(before, sample.value) if gauge in SHARES else before + sample.value
    return values


def samples_of(page: bytes, starts: tuple[bytes, ...], most: int) -> Iterator[Sample]:
    """The finite samples in the first lines that begin so; of a line that is no sample, nothing. Most servers have no such line, and need
    no parser."""
    lines = [line for line in page.splitlines() if line.startswith(starts)][:most]
    if lines:
        from prometheus_client.parser import text_string_to_metric_families

    for line in lines:
        with suppress(ValueError, IndexError):
            for family in text_string_to_metric_families(line.decode()):
                yield from (sample for sample in family.samples if math.isfinite(sample.value))


class ServerGauges:
    """Follows a server's page from the first `latest` on, until it is closed or there is no such page."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirects()]
        if tls is not None:
            handlers.append(urllib.request.HTTPSHandler(context=tls))
        self._open = urllib.request.build_opener(*handlers).open
        self._url = url
        self._latest: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def latest(self) -> dict[str, float]:
        """What the server last said; empty before its first word, and when it says nothing more."""
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._follow, name="bmp-gauges", daemon=True)
            self._thread.start()
        return self._latest

    def prefix_counts(self) -> tuple[int, int | None] | None:
        """As `prefix_counts_of` a page that is asked for now; waits for it."""
        return prefix_counts_of(self.page() or b"")

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _follow(self) -> None:
        while not self._closed.is_set():
            page = self.page()
            if page is None:
                return
            self._latest = gauges_of(page)
            self._closed.wait(PERIOD_S)

    def page(self) -> bytes | None:
        """None where there is no page; empty where the server gave none this time, as one that starts again."""
        try:
            with self._open(self._url, timeout=TIMEOUT_S) as answer:
                page: bytes = answer.read(MAX_PAGE_BYTES + 1)
        except urllib.error.HTTPError:
            return None
        except (OSError, ValueError):
            return b""
        return page if len(page) <= MAX_PAGE_BYTES else None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Only the target is contacted."""

    def redirect_request(self, *_: object) -> None:
        return None
