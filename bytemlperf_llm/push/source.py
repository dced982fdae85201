"""Reading a run's metrics page, as a scrape does: with a time limit and a size cap."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from bytemlperf_llm.errors import UserError

TIMEOUT_S = 5.0
MAX_PAGE_BYTES = 8 << 20
AUTHORIZATION = "BMP_PUSH_AUTHORIZATION"
"""Environment variable with the Authorization header for where metrics go. No flag takes it: process lists show flags."""


class Unreachable(Exception):
    """Nobody answered, or not as asked; the text is one line without credentials."""


def checked_url(text: str, what: str) -> str:
    """`text`, when it is an http or https address without credentials. Raises UserError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{what} {shown(text)!r} is no http or https address", "write it as http://host:port/path")
    if parts.username or parts.password:
        raise UserError(f"{what} holds credentials", f"leave them out and put the Authorization header into ${AUTHORIZATION}")
    return text


def shown(url: str) -> str:
    """The address without credentials and query, for messages."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return (
        urlunsplit((parts.scheme, host + (f":{parts.port}" if parts.port else ""), parts.path, "", ""))
        if host
        else url.partition("@")[2] or url
    )


def read_page(url: str) -> bytes:
    """The metrics page in Prometheus' text format. Raises Unreachable."""
    request = urllib.request.Request(url, headers={"Accept": "text/plain; version=0.0.4"})  # noqa: S310 (checked_url)
    page = _exchange(request)
    if len(page) > MAX_PAGE_BYTES:
        raise Unreachable(f"{shown(url)} answers with more than {MAX_PAGE_BYTES} bytes")
    return page


def send(url: str, method: str, body: bytes, headers: dict[str, str]) -> None:
    """Send `body`; an answer of 2xx is a success. Raises Unreachable."""
    authorization = os.environ.get(AUTHORIZATION)
    more = {"Authorization": authorization} if authorization else {}
    _exchange(urllib.request.Request(url, data=body, method=method, headers=headers | more))  # noqa: S310 (checked_url)


def families(page: bytes) -> list[Any]:
    """prometheus_client's Metric objects. Raises Unreachable when the page is no metrics page."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        return list(text_string_to_metric_families(page.decode("utf-8")))
    except (ValueError, UnicodeDecodeError, KeyError) as error:
        raise Unreachable(f"what is served there is no metrics page: {type(error).__name__}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry metrics and the header elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _exchange(request: urllib.request.Request) -> bytes:
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            found: bytes = answer.read(MAX_PAGE_BYTES + 1)
            return found
    except urllib.error.HTTPError as error:
        detail = error.read(200).decode("utf-8", "replace").strip()
        raise Unreachable(f"{shown(request.full_url)} answers {error.code}{f': {detail}' if detail else ''}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"{shown(request.full_url)} doesn't answer: {reason}") from None
