"""One client connection of the reference server: requests parsed, queued in order, answered on schedule."""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import time
from collections import deque
from collections.abc import Mapping
from typing import Annotated, cast

import httptools
import msgspec

from engines.contract import BadOption, parse_options
from engines.reference.engine import ReferenceOptions
from engines.reference.schedule import Job, Schedule
from engines.reference.truth import Account, Truth
from engines.reference.wire import Ask, StreamFormat, WireError, error_response, full_answer, json_response, parse_ask

MAX_BODY_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 16
LINGER_S = 1.0
"""How long a refused client may go on sending before it is cut off; cutting at once would lose the answer."""

_GOOD_REQUEST_ID = re.compile(r"[!-~]{1,128}").fullmatch
_COMPLETIONS = {"/v1/chat/completions": True, "/v1/completions": False}
_GET_PATHS = frozenset({"/v1/models", "/health", "/stats", "/reset"})

Count = Annotated[int, msgspec.Meta(ge=1)]


class ServerOptions(ReferenceOptions, frozen=True, kw_only=True):
    """As the engine's, and: `events_per_write` events leave in one write; `require_key_env` names the
    environment variable with the API key that every request must show."""

    events_per_write: Count = 1
    max_model_len: Count = 131_072
    require_key_env: str = ""


class ServerState:
    """What all connections share. Raises BadOption."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = parse_options(options, ServerOptions)
        self.api_key = _read_key(self.options.require_key_env)
        self.pace = self.options.pace()
        self.truth = Truth()
        self.schedule: Schedule
        self.connections: set[Connection] = set()

    def authorized(self, authorization: str) -> bool:
        """Whether an Authorization header shows the key, where one is required."""
        return self.api_key is None or hmac.compare_digest(authorization.encode(), f"Bearer {self.api_key}".encode())

    def stats(self) -> bytes:
        """The `/stats` body."""
        options = {**msgspec.structs.asdict(self.options), "require_key_env": bool(self.options.require_key_env)}
        load = {"running": self.schedule.running, "waiting": self.schedule.waiting, "connections": len(self.connections)}
        return msgspec.json.encode({"options": options, "load": load, **self.truth.report()})


def _read_key(variable: str) -> str | None:
    if not variable:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise BadOption(f"engine option require_key_env names {variable}, which is not set", f"export {variable} with the key in it")
    return key


class _Request(msgspec.Struct):
    """What the parser has gathered of one request; without a method its header isn't over."""

    url: bytes = b""
    method: bytes = b""
    version: str = "1.1"
    authorization: str = ""
    request_id: str = ""
    length: int = 0
    expects_continue: bool = False
    body: list[bytes] = []
    keep_alive: bool = True
    arrival_ns: int = 0


class Connection(asyncio.Protocol):
    """Parses with httptools, whose callbacks are the `on_...` methods; one request is answered at a time."""

    def __init__(self, server: ServerState) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._coming = _Request()
        self._header_bytes = 0
        self._body_bytes = 0
        self._refused: WireError | None = None
        self._ready: deque[_Request] = deque()
        self._job: _Response | None = None
        self._closing = False
        self._pumping = False
        self._reading = True
        self.full = False
        self._socket = -1
        self._transport: asyncio.Transport

    # --- transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._socket = transport.get_extra_info("socket").fileno()
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._socket = -1
        self._closing = True
        self._ready.clear()
        self._server.connections.discard(self)
        if self._job is not None:
            self._server.truth.aborted += 1
            self._server.schedule.cancel(self._job)
            self._job = None

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self._job is not None:
            self._server.schedule.resume(self._job)

    def data_received(self, data: bytes) -> None:
        arrival_ns = time.monotonic_ns()
        if self._closing:
            return
        if not self._coming.method:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refused = self._refused or WireError(400, "invalid_request", "this is not a supported HTTP request")
        if not self._coming.method and self._header_bytes > MAX_HEADER_BYTES:
            self._refused = WireError(431, "invalid_request", f"the header is larger than {MAX_HEADER_BYTES} bytes")
        for request in self._ready:
            request.arrival_ns = request.arrival_ns or arrival_ns
        self.pump()

    def abort(self) -> None:
        self._transport.abort()

    # --- httptools ---

    def on_message_begin(self) -> None:
        self._coming = _Request()
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._coming.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._coming
        match name.lower():
            case b"content-length":
                request.length = int(value) if value.isdigit() else 0
            case b"authorization":
                request.authorization = value.decode("latin-1")
            case b"x-request-id":
                text = value.decode("latin-1")
                request.request_id = text if _GOOD_REQUEST_ID(text) else ""
            case b"expect":
                request.expects_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        request = self._coming
        request.method = self._parser.get_method()
        request.version = self._parser.get_http_version()
        self._header_bytes = 0
        if request.length > MAX_BODY_BYTES:
            self._refuse_large_body()
        elif request.expects_continue:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse_large_body()
        else:
            self._coming.body.append(body)

    def on_message_complete(self) -> None:
        self._coming.keep_alive = self._parser.should_keep_alive()
        self._body_bytes = 0
        if self._refused is None:
            self._ready.append(self._coming)
        self._coming = _Request()

    def _refuse_large_body(self) -> None:
        self._refused = WireError(413, "invalid_request", f"the body is larger than {MAX_BODY_BYTES} bytes")

    # --- answers ---

    def pump(self) -> None:
        """Answer what is ready, in order, one at a time; then what was refused; read on when nothing waits."""
        if self._pumping:  # an answer that ended at once; the loop below goes on
            return
        self._pumping = True
        while self._ready and self._job is None and not self._closing:
            self._answer(self._ready.popleft())
        self._pumping = False
        if self._closing:
            return
        if self._job is None and self._refused is not None:
            self._finish(error_response(self._refused, keep_alive=False), keep_alive=False)
        elif self._reading == bool(self._ready):
            self._reading = not self._reading
            (self._transport.resume_reading if self._reading else self._transport.pause_reading)()

    def _answer(self, request: _Request) -> None:
        server = self._server
        server.truth.numbered += 1
        request_id = request.request_id or f"req-{server.truth.numbered}"
        path = request.url.partition(b"?")[0].decode("latin-1")
        account = Account(request.arrival_ns)
        try:
            if path != "/health" and not server.authorized(request.authorization):
                raise WireError(401, "invalid_api_key", "the API key is missing or wrong")
            if path in _COMPLETIONS:
                _require(request.method, b"POST")
                server.truth.open(request_id, account)
                self._complete(request, request_id, account, _COMPLETIONS[path])
            elif path in _GET_PATHS:
                _require(request.method, b"GET", b"POST")
                self._finish(json_response(200, self._get(path), request_id, request.keep_alive), request.keep_alive)
            else:
                raise WireError(404, "not_found", "no such path")
        except WireError as error:
            account.status = error.status
            self._finish(error_response(error, request_id, request.keep_alive), request.keep_alive)

    def _get(self, path: str) -> bytes:
        server = self._server
        match path:
            case "/stats":
                return server.stats()
            case "/reset":
                server.truth.reset()
            case "/v1/models":
                model = {"id": "reference", "object": "model", "created": 0, "owned_by": "reference"}
                return msgspec.json.encode({"object": "list", "data": [{**model, "max_model_len": server.options.max_model_len}]})
        return b'{"status":"ok"}'

    def _complete(self, request: _Request, request_id: str, account: Account, chat: bool) -> None:
        server = self._server
        options = server.options
        ask = parse_ask(b"".join(request.body), chat, options.max_model_len)
        if options.fail_every and server.truth.requests % options.fail_every == 0:
            raise WireError(500, "reference_failure", f"fail_every={options.fail_every}")
        response = _Response(self, ask, request, request_id, account)
        self._job = response
        response.start()

    def write(self, data: bytes) -> None:
        """Straight into the socket; what it doesn't take at once goes through the transport."""
        transport = self._transport
        if self._socket < 0 or transport.is_closing():
            return
        if transport.get_write_buffer_size() == 0:
            try:
                written = os.write(self._socket, data)
            except BlockingIOError:
                written = 0
            except OSError:  # the client is gone; connection_lost follows
                transport.abort()
                return
            if written == len(data):
                return
            data = data[written:]
        self._server.truth.buffered_writes += 1
        transport.write(data)

    def _finish(self, data: bytes, keep_alive: bool) -> None:
        self.write(data)
        self.ended(keep_alive)

    def ended(self, keep_alive: bool) -> None:
        """A response is out: go on, or close when that was announced."""
        self._job = None
        if keep_alive:
            self.pump()
            return
        self._closing = True
        if self._refused is not None:
            asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()


def _require(method: bytes, *allowed: bytes) -> None:
    if method not in allowed:
        raise WireError(405, "method_not_allowed", f"use {b' or '.join(allowed).decode()}")


class _Response(Job):
    """One completion on its way out. Streamed: a step a write. Else one step, due with the last token."""

    __slots__ = ("_account", "_ask", "_connection", "_format", "_keep_alive", "_request_id", "_server")

    def __init__(self, connection: Connection, ask: Ask, request: _Request, request_id: str, account: Account) -> None:
        server = connection._server
        self._connection = connection
        self._server = server
        self._ask = ask
        self._account = account
        self._request_id = request_id
        chunked = request.version != "1.0"
        self._keep_alive = request.keep_alive and (chunked or not ask.stream)
        options = server.options
        self._format = StreamFormat(ask, server.truth.numbered, options.tokens_per_chunk, options.events_per_write, chunked)
        if ask.stream:
            offsets_ns = server.pace.offsets_ns(request_id, ask.tokens, self._format.tokens_per_step)
        else:
            offsets_ns = [server.pace.offsets_ns(request_id, ask.tokens, options.tokens_per_chunk)[-1]]
        super().__init__(offsets_ns)

    def start(self) -> None:
        """The header leaves at once, unless the first token is due at once and takes it along."""
        if self._ask.stream and self.offsets_ns[0] > 0:
            self._connection.write(self._format.head(self._request_id, self._keep_alive))
        self._server.schedule.submit(self)

    def send(self, index: int, due_ns: int) -> None:
        tokens = self._format.tokens_per_step
        if not self._ask.stream:
            tokens = self._ask.tokens
            body = full_answer(self._ask, self._server.truth.numbered)
            data = json_response(200, body, self._request_id, self._keep_alive)
        else:
            data = self._format.step(index)
            if index == 0 and self.offsets_ns[0] == 0:
                data = self._format.head(self._request_id, self._keep_alive) + data
        self._connection.write(data)
        written_ns = time.monotonic_ns()
        account = self._account
        if index == 0:
            account.first_write_ns = written_ns
        account.last_write_ns = written_ns
        tokens = min(tokens, self._ask.tokens - account.tokens)
        account.tokens += tokens
        self._server.truth.wrote(written_ns - due_ns, tokens)
        self.parked = self._connection.full

    def finished(self) -> None:
        self._account.done = True
        self._connection.ended(self._keep_alive)
