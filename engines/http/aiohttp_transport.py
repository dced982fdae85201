"""The other transport of the `openai` engine: aiohttp, for proxies, redirects and what else a lean
client should not learn. Its stamps are taken after aiohttp's own HTTP parser has run, which costs
it accuracy from some hundred requests a second on; the lean transport is the default for that reason.

Payloads: first a `Head`, then body reads as aiohttp hands them out (`iter_any`).

Redirects are followed here and not by aiohttp, whose rule would send any header but Authorization to whatever server the
first one names: with a key, a header or anything else that is secret, only the same server is.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from engines.client_limits import client_limit
from engines.contract import EngineError, Recorder
from engines.http.held import most_bytes, too_much, why
from engines.http.http1 import Framing, Head
from engines.http.pool import MAX_IDLE_S, MAX_RESPONSE_BYTES, closed_unanswered, connect_error

if TYPE_CHECKING:
    from aiohttp import ClientResponse, TCPConnector

MAX_PAGE_BYTES = 4 * 1024 * 1024
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 307, 308)  # the question is the same there; 303 asks for another one


class _Leaving:
    """One request on its way: who is to be told that it left, and on what kind of connection it did."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder = recorder
        self.reused = False
        self.answered = False


class AiohttpTransport:
    """Same two verbs as the lean `Pool`, over full URLs. `private`: something that goes out is for this server alone."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, *, proxy: str | None, reuse: bool, private: bool) -> None:
        import aiohttp

        self._url, self._proxy, self._private = url, proxy, private
        self._held_bytes, self._most_bytes = 0, most_bytes()
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_stamp_first)
        trace.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            trace_configs=[trace],
            connector=_connector(tls, reuse=reuse),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=None),
            auto_decompress=False,
            read_bufsize=2**20,
        )

    async def request(self, body: bytes, headers: Mapping[str, str], recorder: Recorder) -> None:
        """POST one body; everything that arrives goes to the recorder. Raises EngineError.

        It counts as sent when its head leaves, which is after connecting: until then the limit on that holds.
        """
        received_bytes = 0
        async with self._answer("POST", self._url, _Leaving(recorder), headers, body) as response:
            recorder.chunk(_head(response.status, response.headers))
            try:
                async for data in response.content.iter_any():
                    recorder.chunk(data)
                    received_bytes += len(data)
                    self._held_bytes += len(data)
                    if received_bytes > MAX_RESPONSE_BYTES:
                        raise EngineError("too_large", f"response is over {MAX_RESPONSE_BYTES} bytes")
                    if too_much(self._held_bytes, received_bytes, self._most_bytes):
                        raise EngineError("too_large", why(self._held_bytes, received_bytes))
            finally:
                self._held_bytes -= received_bytes

    async def get(self, path: str, headers: Mapping[str, str], method: str = "GET", body: bytes | None = None) -> tuple[Head, bytes]:
        """One page of the same server, or its first megabytes. Raises EngineError."""
        page = bytearray()
        async with self._answer(method, urljoin(self._url, path), _Leaving(), headers, body) as response:
            async for data in response.content.iter_any():
                page += data
                if len(page) > MAX_PAGE_BYTES:
                    break
            return _head(response.status, response.headers), bytes(page)

    @asynccontextmanager
    async def _answer(
        self, method: str, url: str, leaving: _Leaving, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[ClientResponse]:
        """The answer at the end of the redirects, where there are any."""
        async with self._errors_named(leaving):
            for _ in range(MAX_REDIRECTS + 1):
                async with self._session.request(
                    method,
                    url,
                    data=body,
                    headers={name: value for name, value in headers.items() if name != "Host"},  # aiohttp's own, as redirects change it
                    proxy=self._proxy,
                    allow_redirects=False,
                    trace_request_ctx=leaving,
                ) as response:
                    leaving.answered = True
                    if response.status not in _REDIRECTS or "location" not in response.headers:
                        yield response
                        return
                    url = self._redirected(url, response.headers["location"])
            raise EngineError("redirect", "too many redirects")

    def _redirected(self, url: str, location: str) -> str:
        """Where to; raises EngineError where what is secret must not go."""
        try:
            target = urljoin(url, location)
            there = urlsplit(target)
            server = there.scheme, there.hostname, there.port or (443 if there.scheme == "https" else 80)
        except ValueError:
            raise EngineError("redirect", "redirected to an invalid address") from None
        here = urlsplit(self._url)
        allowed = {(here.scheme, here.hostname, here.port or (443 if here.scheme == "https" else 80)), ("https", here.hostname, 443)}
        if server[0] not in ("http", "https") or (self._private and server not in allowed):
            raise EngineError("redirect", f"redirected to {there.scheme}://{there.netloc}, another server, which gets no key of this one")
        return target

    @asynccontextmanager
    async def _errors_named(self, leaving: _Leaving) -> AsyncIterator[None]:
        import aiohttp

        try:
            yield
        except aiohttp.ClientPayloadError as error:
            reset = "ConnectionResetError" in str(error)  # the cause is only in the text
            raise EngineError("connection_reset" if reset else "truncated_stream", str(error)) from error
        except aiohttp.ClientHttpProxyError as error:
            raise EngineError(
                "http_4xx" if 400 <= error.status < 500 else "http_5xx", f"HTTP {error.status} from the proxy, which does not connect"
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise connect_error(_innermost(error), tls=self._url.startswith("https")) from error
        except aiohttp.ServerDisconnectedError as error:
            raise closed_unanswered(race=False) from error
        except (aiohttp.ClientOSError, ConnectionError) as error:
            race = closed_unanswered(race=True) if leaving.reused and not leaving.answered else None
            raise client_limit(error) or race or EngineError("connection_reset", str(error)) from error
        except aiohttp.ClientError as error:
            raise EngineError("malformed_stream", f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def _connector(tls: ssl.SSLContext | None, *, reuse: bool) -> TCPConnector:
    from aiohttp import TCPConnector

    verified = tls if tls is not None else True
    if not reuse:
        return TCPConnector(limit=0, ssl=verified, force_close=True)
    return TCPConnector(limit=0, ssl=verified, keepalive_timeout=MAX_IDLE_S)


async def _stamp_first(_session: object, context: Any, _params: object) -> None:
    """The first head that leaves; not those that follow redirects, nor those of other questions."""
    leaving: _Leaving = context.trace_request_ctx
    if leaving.recorder is not None:
        leaving.recorder.sent()
        leaving.recorder = None


async def _note_reuse(_session: object, context: Any, _params: object) -> None:
    leaving: _Leaving = context.trace_request_ctx
    leaving.reused = True


def _head(status: int, headers: Mapping[str, str]) -> Head:
    return Head(status, {name.lower(): value for name, value in headers.items()}, Framing.UNTIL_CLOSE, 0, False)


def _innermost(error: Exception) -> Exception:
    """aiohttp wraps the socket's error; the cause tells name, refusal and TLS apart."""
    inner = getattr(error, "os_error", None) or error.__cause__
    return inner if isinstance(inner, Exception) else error
