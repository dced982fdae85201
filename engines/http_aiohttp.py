"""The other transport of the `openai` engine: aiohttp, for proxies, redirects and what else a lean
client should not learn. Its stamps are taken after aiohttp's own HTTP parser has run, which costs
it accuracy from some hundred requests a second on; the lean transport is the default for that reason.

Payloads: first a `Head`, then body reads as aiohttp hands them out (`iter_any`).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin

from engines.contract import EngineError, Recorder
from engines.http1 import Framing, Head
from engines.http_pool import MAX_RESPONSE_BYTES, connect_error

MAX_PAGE_BYTES = 4 * 1024 * 1024


class AiohttpTransport:
    """Same two verbs as the lean `Pool`, over full URLs."""

    def __init__(self, url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None) -> None:
        import aiohttp

        self._url = url
        leaving = aiohttp.TraceConfig()
        leaving.on_request_headers_sent.append(_stamp_first)
        self._session = aiohttp.ClientSession(
            trace_configs=[leaving],
            connector=aiohttp.TCPConnector(limit=0, ssl=tls if tls is not None else True),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=None),
            headers=dict(headers),
            trust_env=True,
            auto_decompress=False,
            read_bufsize=2**20,
        )

    async def request(self, body: bytes, headers: Mapping[str, str], recorder: Recorder) -> None:
        """POST one body; everything that arrives goes to the recorder. Raises EngineError.

        It counts as sent when its head leaves, which is after connecting: until then the limit on that holds.
        """
        received_bytes = 0
        leaves = [recorder]
        async with self._errors_named(), self._session.post(self._url, data=body, headers=headers, trace_request_ctx=leaves) as response:
            recorder.chunk(_head(response.status, response.headers))
            async for data in response.content.iter_any():
                recorder.chunk(data)
                received_bytes += len(data)
                if received_bytes > MAX_RESPONSE_BYTES:
                    raise EngineError("too_large", f"answer is over {MAX_RESPONSE_BYTES} bytes")

    async def get(self, path: str) -> tuple[Head, bytes]:
        """One page of the same server. Raises EngineError."""
        async with self._errors_named(), self._session.get(urljoin(self._url, path)) as response:
            return _head(response.status, response.headers), await response.content.read(MAX_PAGE_BYTES)

    @asynccontextmanager
    async def _errors_named(self) -> AsyncIterator[None]:
        import aiohttp

        try:
            yield
        except aiohttp.ClientPayloadError as error:
            reset = "ConnectionResetError" in str(error)  # the cause is only in the text
            raise EngineError("connection_reset" if reset else "truncated_stream", str(error)) from error
        except aiohttp.ClientConnectorError as error:
            raise connect_error(_innermost(error), tls=self._url.startswith("https")) from error
        except aiohttp.ServerDisconnectedError as error:
            raise EngineError("connection_reset", "connection closed before any answer") from error
        except aiohttp.TooManyRedirects as error:
            raise EngineError("redirect", "too many redirects") from error
        except (aiohttp.ClientOSError, ConnectionError) as error:
            raise EngineError("connection_reset", str(error)) from error
        except aiohttp.ClientError as error:
            raise EngineError("malformed_stream", f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


async def _stamp_first(_session: Any, context: Any, _params: Any) -> None:
    """The first head that leaves; not those that follow redirects, nor those of other questions."""
    leaves: list[Recorder] | None = context.trace_request_ctx
    if leaves:
        leaves.pop().sent()


def _head(status: int, headers: Mapping[str, str]) -> Head:
    return Head(status, {name.lower(): value for name, value in headers.items()}, Framing.UNTIL_CLOSE, 0, False)


def _innermost(error: Exception) -> Exception:
    """aiohttp wraps the socket's error; the cause tells name, refusal and TLS apart."""
    inner = getattr(error, "os_error", None) or error.__cause__
    return inner if isinstance(inner, Exception) else error
