"""One address of an OpenAI-compatible service: how it is reached, which models it lists, and a request on its way to it."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from engines.contract import EngineError, EngineUnavailable, Exchange, Recorder, Request, caught_up
from engines.credentials import userinfo_secrets
from engines.http.aiohttp_transport import AiohttpTransport
from engines.http.http1 import Head, head_and_body
from engines.http.pool import Pool
from engines.http.proxy import Proxy, proxy_for
from engines.openai.advice import fix_for
from engines.openai.decode import DONE_EVENT
from engines.openai.headers import RequestHead, over
from engines.openai.models import Listing, read_listing
from engines.openai.scraper import Scraper
from engines.openai.target import Target

READY_POLL_S = 0.5
PROBE_TIMEOUT_S = 10.0
UNREACHABLE = ("name_not_found", "connection_refused", "connect_timeout", "tls", "client_limit")
RESET_CALLS = {"/reset_prefix_cache": 10, "/flush_cache": 1}
"""Paths by which vLLM and SGLang empty the prefix cache, and how often each is asked."""
REFUSED = re.compile(rb'"success":\s*false')
MANY_READS = 8  # tokens from which on the reading thread saves more than it costs


class Endpoint:
    """Raises BadOption for a proxy or CA file that can't be used. `transport` is `auto`, `lean` or `aiohttp`, then the one that it has;
    `keyed` says that something that is secret goes to the server, `key_fix` how to give a key."""

    def __init__(
        self,
        target: Target,
        headers: dict[str, str],
        tls: Callable[[], ssl.SSLContext],
        transport: str,
        *,
        reuse: bool,
        keyed: bool,
        key_fix: str,
        id_header: str,
        trace_key: str = "",
    ) -> None:
        self.target, self.listing = target, Listing()
        self._headers = headers if reuse else headers | {"Connection": "close"}
        self._keyed, self._key_fix = keyed, key_fix
        self._proxy: Proxy | None = None if transport == "lean" else proxy_for(target.tls, target.host, target.port)
        self.secrets = [] if self._proxy is None else userinfo_secrets(self._proxy.credentials)
        self.transport = "aiohttp" if self._proxy is not None or transport == "aiohttp" else "lean"
        context = tls() if target.tls or self.transport == "aiohttp" else None
        self._aiohttp: AiohttpTransport | None = None
        self.scraper: Scraper | None = None
        if self.transport == "aiohttp":
            proxy = None if self._proxy is None else self._proxy.url
            self._aiohttp = AiohttpTransport(target.url, context, proxy=proxy, reuse=reuse, private=keyed or bool(self.secrets))
        if self._proxy is None:
            self.scraper = Scraper(target.metrics, context)
        self._pool = Pool(target.host, target.port, context if target.tls else None, ending=DONE_EVENT, reuse=reuse)
        self._trace_key = trace_key
        self.name_ids(id_header)

    # -- a request ---------------------------------------------------------------

    def name_ids(self, header: str) -> None:
        """Requests' ids go out in this header from now on."""
        self._id_header, self._heads = header, dict[str, RequestHead]()
        self._head = RequestHead(self.target.path, self._headers, self._trace_key, header)

    def send(self, request: Request, body: bytes, recorder: Recorder) -> Awaitable[object]:
        """POST one body, when awaited; everything that arrives goes to the recorder. Raises EngineError then. (A coroutine of its own would
        be one more frame in every request.)"""
        head = self._head if request.traffic_class is None else self._head_of(request)
        if self._aiohttp is not None:
            return self._aiohttp.request(body, head.headers_for(request), recorder)
        more = head.more(request) if head.varies else b""
        whole = b"%b%b\r\n%bContent-Length: %d\r\n\r\n%b" % (head.post, request.id.encode(), more, len(body), body)
        return self._pool.request(whole, recorder, many_reads=request.max_tokens >= MANY_READS)

    def _head_of(self, request: Request) -> RequestHead:
        """With the headers of the request's class in it."""
        assert request.traffic_class is not None
        name = request.traffic_class.name
        if name not in self._heads:
            headers = over(self._headers, dict(request.traffic_class.headers))
            self._heads[name] = RequestHead(self.target.path, headers, self._trace_key, self._id_header)
        return self._heads[name]

    # -- what the server says of itself --------------------------------------------

    async def find_models(self, ready_timeout_s: float, *, named: bool) -> None:
        """Ask for the list of models until the server is up. Where the model is named, any answer will do in the end. Raises
        EngineUnavailable."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + ready_timeout_s
        while True:
            self.listing, error = await self._ask_models()
            if error is None:
                return self._check_usable(named=named)
            if clock() >= deadline:
                if named and error.error_class not in UNREACHABLE:
                    return None
                raise self._unreachable(error)
            await asyncio.sleep(READY_POLL_S)

    async def _ask_models(self) -> tuple[Listing, EngineError | None]:
        """The list, and why it may be there later."""
        try:
            head, body = await asyncio.wait_for(self._get(self.target.models), PROBE_TIMEOUT_S)
        except TimeoutError:
            problem = f"no answer in {PROBE_TIMEOUT_S:g} s"
            return Listing(problem=problem), EngineError("first_token_timeout", problem)
        except EngineError as error:
            return Listing(problem=f"{error.error_class.replace('_', ' ')}, {error.detail}"), error
        listing = read_listing(head, body)
        return listing, EngineError("http_5xx", listing.problem) if head.status >= 500 else None

    def _check_usable(self, *, named: bool) -> None:
        """Raises EngineUnavailable where a list is needed and access to it is refused."""
        listing = self.listing
        if named or not listing.problem:
            return
        if self._proxy is not None and not listing.moved:  # 407, 404, a page: it may be the proxy's own word
            raise self._unreachable(EngineError("http_4xx", listing.problem))
        if listing.refused:
            given = "the key was refused" if self._keyed else "no key was given"
            raise EngineUnavailable(f"{self.target.authority} refuses access, {given} ({listing.problem})", self._key_fix)

    async def _get(self, path: str, method: str = "GET") -> tuple[Head, bytes]:
        return (await self._exchange(path, method, b"", {}))[:2]

    async def exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> Exchange:
        """A question outside the measurement: POST of a body, GET without one; to the endpoint where there is no path, else below the
        server's root. Raises EngineError where nothing answers."""
        whole = {"/v1/models": self.target.models, "": self.target.path}.get(path, self.target.prefix + path)
        head, answer, protocol = await self._exchange(whole, "POST" if body else "GET", body, headers)
        return Exchange(head.status, head.headers, answer, protocol, head.keep_alive)

    async def _exchange(self, path: str, method: str, body: bytes, headers: Mapping[str, str]) -> tuple[Head, bytes, str]:
        """Head and body of the response, and its version of HTTP where that is known."""
        head = RequestHead(path, over(self._head.fixed, dict(headers))) if headers else self._head
        if self._aiohttp is not None:
            return (*await self._aiohttp.get(path, head.fixed, method, body or None), "")
        reads: list[Any] = []
        whole = b"%b %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (method.encode(), path.encode(), head.lines, len(body), body)
        await self._pool.request(whole, _Collect(reads))
        return (*head_and_body(reads), bytes(reads[0][:8]).decode("latin-1"))

    def _unreachable(self, error: EngineError) -> EngineUnavailable:
        """Why the server can't be asked, and the remedy."""
        through = "" if self._proxy is None else f" through {self._proxy.name}"
        fix = "start the server, give its address with --base-url, or wait for it with --ready-check-timeout-sec 120"
        if error.error_class in ("connection_reset", "malformed_stream"):
            fix = "look at what listens there, and check --base-url (http:// or https://?)"
        fix = "raise that limit" if error.error_class == "client_limit" else fix_for(error) or fix
        return EngineUnavailable(f"can't reach {self.target.authority}{through} ({self.listing.problem})", self.around_proxy() or fix)

    async def reset_cache(self) -> str:
        """Empty the prefix cache; by which call, "" where none answers. vLLM's does in its development mode (VLLM_SERVER_DEV_MODE=1), and
        refuses while it still frees the last requests' blocks."""
        for path, tries in RESET_CALLS.items():
            for _ in range(tries):
                try:
                    head, body = await asyncio.wait_for(self._get(self.target.prefix + path, "POST"), PROBE_TIMEOUT_S)
                except (TimeoutError, EngineError):
                    return ""
                if head.status != 200:
                    break
                if not REFUSED.search(body):
                    return f"POST {path}"
                await asyncio.sleep(READY_POLL_S)
        return ""

    def around_proxy(self) -> str | None:
        """How to do without the proxy; None where there is none."""
        return None if self._proxy is None else f"go around the proxy with no_proxy={self.target.host}, or unset the variable"

    def reading_ns(self) -> int:
        """Processor time of the thread that reads answers."""
        return self._pool.reading_ns()

    async def close(self) -> None:
        """Close every connection."""
        if self._aiohttp is not None:
            await self._aiohttp.close()
        await self._pool.close()


class _Collect:
    """A recorder that only keeps the bytes; for questions outside the measurement."""

    def __init__(self, reads: list[Any]) -> None:
        self.payloads = reads
        self.chunk = reads.append
        self.catch_up = caught_up

    def sent(self) -> None:
        """Not timed."""

    def lists(self) -> None:
        """Nor compiled."""
