"""What a server says of itself on `/metrics`, in this project's words: queue, KV cache, prefix hits, preemptions.

Asked about once a second by a thread of its own, so that no stamp waits for it; a server that has no such
page is asked once. Nothing of the page but the numbers below is kept, and no key is sent. Names of
vLLM (docs: Production Metrics) and of SGLang (docs: Production Metrics).
"""

from __future__ import annotations

import math
import re
import ssl
import threading
import urllib.error
import urllib.request

PERIOD_S = 1.0
TIMEOUT_S = 2.0
MAX_PAGE_BYTES = 4 * 1024 * 1024

GAUGES = {
    b"vllm:num_requests_running": "running",
    b"vllm:num_requests_waiting": "waiting",
    b"vllm:kv_cache_usage_perc": "kv_cache_usage",
    b"vllm:gpu_cache_usage_perc": "kv_cache_usage",
    b"vllm:num_preemptions_total": "preemptions",
    b"vllm:prefix_cache_queries_total": "prefix_queries",
    b"vllm:prefix_cache_hits_total": "prefix_hits",
    b"sglang:num_running_reqs": "running",
    b"sglang:num_queue_reqs": "waiting",
    b"sglang:token_usage": "kv_cache_usage",
    b"sglang:cache_hit_rate": "prefix_cache_hit_rate",
}
SHARES = {"kv_cache_usage", "prefix_cache_hit_rate"}
"""Of several engines behind one page the fullest is told; everything else is their sum."""

_SAMPLE = re.compile(rb"^(" + b"|".join(map(re.escape, GAUGES)) + rb")(?:\{[^\n]*\})? ([0-9.eE+-]+)(?: [0-9]+)?$", re.M)


def gauges_of(page: bytes) -> dict[str, float]:
    """The known gauges of a page in Prometheus' text format; empty where it has none."""
    values: dict[str, float] = {}
    for name, text in _SAMPLE.findall(page):
        try:
            value = float(text)
        except ValueError:
            continue
        if not math.isfinite(value):
            continue
        gauge = GAUGES[name]
        values[gauge] = max(values.get(gauge, 0.0), value) if gauge in SHARES else values.get(gauge, 0.0) + value
    hits, queries = values.pop("prefix_hits", None), values.pop("prefix_queries", None)
    if hits is not None and queries is not None:
        values["prefix_cache_hit_rate"] = hits / queries if queries else 0.0
    return values


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

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _follow(self) -> None:
        while not self._closed.is_set():
            page = self._page()
            if page is None:
                return
            self._latest = gauges_of(page)
            self._closed.wait(PERIOD_S)

    def _page(self) -> bytes | None:
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
