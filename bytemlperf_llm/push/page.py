"""A run's metrics page, read as a scrape does: with a time limit, a size cap, and no redirect followed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bytemlperf.export.http import TIMEOUT_S

MAX_PAGE_BYTES = 8 << 20


class NoPage(Exception):
    """Nobody answered, or not with metrics; the text is one line."""


class Page:
    """What a receiver needs of an exporter: its text, and its families."""

    def __init__(self, content: bytes) -> None:
        from prometheus_client.parser import text_string_to_metric_families

        self._content = content
        try:
            self._families = list(text_string_to_metric_families(content.decode("utf-8")))
        except (ValueError, KeyError) as error:
            raise NoPage(f"what is served there is no metrics page ({type(error).__name__})") from None

    def text(self) -> bytes:
        """As it was served."""
        return self._content

    def collect(self) -> Iterator[Any]:
        """Prometheus' metric families."""
        return iter(self._families)


def read_page(url: str) -> Page:
    """Read it. Raises NoPage."""
    from urllib.request import HTTPRedirectHandler, build_opener

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *_words: object) -> None:  # type: ignore[override]
            return None

    try:
        with build_opener(NoRedirects).open(url, timeout=TIMEOUT_S) as answer:
            content = answer.read(MAX_PAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise NoPage(f"{url} doesn't answer: {getattr(error, 'reason', error)}") from None
    if len(content) > MAX_PAGE_BYTES:
        raise NoPage(f"{url} answers with more than {MAX_PAGE_BYTES} bytes")
    return Page(content)
