"""Follows a page of metrics while a run goes on: asked about once a second by a thread of its own, so that no stamp waits for it.

A page may be at several places: the first that says anything known is the one. No key is sent, no redirect followed, and nothing but
numbers is kept. What it says late, not at all, or not to the end is said, and disturbs nothing. Where its counters fall, or its process is
another one, the server began again: what it had counted when it was last asked is added from then on.
"""

from __future__ import annotations

import http.client
import math
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from engines.contract import Counted
from engines.counted import UNKNOWN, joined
from engines.openai.metrics_page import MAX_SAMPLES, Page, read_page

PERIOD_S = 1.0
REST = 50
"""Of the time that it takes to read a page, between two of them: at most 2 % of a processor."""
TIMEOUT_S = 2.0
TRIES = 3
"""Before and after the measured part."""
MAX_PAGE_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 64 << 10
AS_THEY_STAND = ("preemptions",)
"""Counts of the series; others are so much in a second, `_per_s`."""
NOT_IN_SERIES = ("prefix_queries", "prefix_hits", "accepted_tokens_at")


class Answer(NamedTuple):
    """The page, and why it is of no use; `final` where there won't be another."""

    page: bytes
    problem: str = ""
    final: bool = False


class Scraper:
    """Follows from the first `latest` on, until it is closed or there is no such page."""

    def __init__(self, urls: Sequence[str], tls: ssl.SSLContext | None = None) -> None:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirects()]
        if tls is not None:
            handlers.append(urllib.request.HTTPSHandler(context=tls))
        opener = urllib.request.build_opener(*handlers)
        opener.addheaders = [("Accept", "text/plain")]
        self._open = opener.open
        self._urls = list(urls)
        self._latest: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._asking = threading.Lock()
        self._before = Counted()  # of servers that ran here before this one
        self._counts: dict[str, float] = {}  # as each was last seen
        self._begun_s: float | None = None
        self._cut = False
        self._raw, self._page = b"", Page({}, {}, {})
        self._asked = self._unanswered = self._restarts = 0
        self._problem = ""

    @property
    def url(self) -> str:
        """Without its query."""
        return self._urls[0].partition("?")[0]

    def latest(self) -> dict[str, float]:
        """What the server last said; empty before its first word, and when it says nothing more."""
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._follow, name="bmp-metrics", daemon=True)
            self._thread.start()
        return self._latest

    def counted(self) -> Counted:
        """As of now; waits for the page. Where it says nothing now, nothing is known: what it said before is of another time."""
        answer = self.ask()
        for _ in range(TRIES - 1):
            if answer.final or not answer.problem:
                break
            answer = self.ask()
        with self._asking:
            if answer.problem:
                return Counted(missing=(*self._missing(answer), *(() if answer.final else (UNKNOWN,))))
            return msgspec.structs.replace(joined(self._before, self._seen()), missing=tuple(self._missing(answer)))

    def _seen(self) -> Counted:
        """Of the server that runs now, as it was last read."""
        return Counted(counts=dict(self._counts), latencies=read_page(self._raw).latencies)

    def _missing(self, last: Answer) -> list[str]:
        told = self._unanswered and f"said nothing {self._unanswered:,} of the {self._asked:,} reads ({self._problem})"
        if last.final:
            told = f"there are none ({last.problem})"
        times = f" {self._restarts:,} times" if self._restarts > 1 else ""
        began = f"its counters began again{times}: what they grew by before, unseen, is missing"
        cut = f"has more than the {MAX_SAMPLES:,} known samples that are read: its sums are of those"
        return [text for text in (told, began if self._restarts else "", cut if self._cut else "") if text]

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _follow(self) -> None:
        before, before_s = Page({}, {}, {}), 0.0
        while not self._closed.is_set():
            begun_s = time.thread_time()
            answer = self.ask()
            if answer.final:
                return
            now_s = time.monotonic()
            self._latest = {} if answer.problem else series(before, self._page, now_s - before_s)
            before, before_s = self._page, now_s
            self._closed.wait(max(PERIOD_S, REST * (time.thread_time() - begun_s)))

    def ask(self) -> Answer:
        """Get the page now, and take it in."""
        with self._asking:
            answers = []
            for url in self._urls:
                answers.append(self._get(url))
                if page := read_page(answers[-1].page, latencies=False):
                    self._urls = [url]
                    self._take(answers[-1].page, page)
                    break
            answer = next((answer for answer in reversed(answers) if not answer.final), answers[0])
            if not page and answer.page:
                answer = answer._replace(problem="nothing on it is known")
            self._asked += 1
            self._unanswered += bool(answer.problem)
            self._problem = answer.problem or self._problem
            return answer

    def _take(self, raw: bytes, page: Page) -> None:
        fell = any(count < self._counts.get(name, 0.0) for name, count in page.counts.items())
        if fell or (self._begun_s is not None and page.begun_s not in (None, self._begun_s)):
            self._before = joined(self._before, self._seen())
            self._counts = {}
            self._restarts += 1
        if page.counts or not self._counts:  # else it lacks what it had
            self._raw = raw
        self._counts |= page.counts
        self._begun_s, self._cut = page.begun_s or self._begun_s, self._cut or page.cut
        self._page = page

    def _get(self, url: str) -> Answer:
        try:
            with self._open(url, timeout=TIMEOUT_S) as answer:
                return _whole(answer, time.monotonic() + TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            return Answer(b"", f"HTTP {error.code}", final=error.code < 500)
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            return Answer(b"", "no answer in time" if isinstance(reason, TimeoutError) else "no answer")


def _whole(answer: http.client.HTTPResponse, until_s: float) -> Answer:
    """The page up to its end. A half one would say too little, so it's none."""
    parts: list[bytes] = []
    size, length = 0, answer.length
    while part := answer.read1(CHUNK_BYTES):
        parts.append(part)
        size += len(part)
        if size > MAX_PAGE_BYTES:
            return Answer(b"", f"it has more than {MAX_PAGE_BYTES >> 20} MiB", final=True)
        if time.monotonic() > until_s:
            return Answer(b"", "no answer in time")
    page = b"".join(parts)
    openmetrics = "openmetrics" in answer.headers.get("Content-Type", "")
    if (length is not None and size < length) or (openmetrics and not page.rstrip().endswith(b"# EOF")):
        return Answer(b"", "its page was cut")
    return Answer(page, "" if page else "its page was empty")


def series(old: Page, new: Page, span_s: float) -> dict[str, float]:
    """Gauges as they are now, counts by how much they grew a second since the page before; power by energy where no gauge has it."""
    told = new.gauges | {name: new.counts[name] for name in AS_THEY_STAND if name in new.counts}
    for name, count in new.counts.items():
        if count >= old.counts.get(name, math.inf) and span_s > 0 and name not in AS_THEY_STAND and not name.startswith(NOT_IN_SERIES):
            told.setdefault("power_w" if name == "energy_j" else f"{name}_per_s", (count - old.counts[name]) / span_s)
    return told


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Only the target is contacted."""

    def redirect_request(self, *_: object) -> None:
        return None
