"""A lean HTTP/1.1 client for streaming answers: one connection, one request, raw reads passed on.

The order of a read is the whole point (`tap.py`): stamp first, then ask the watcher whether that was
the end, and only if it could be. Nothing is parsed, split or decoded while bytes arrive. Answers of
many reads are read by a thread (`reader.py`) where there is one, all others by the event loop.

What it does not know: proxies, redirects, compression, HTTP/2, pipelining, retries. Connections
are kept alive and reused last-in first-out, unless the server has closed or is about to close them:
one that is readable while idle has been closed, and one idle for longer than `MAX_IDLE_S` is left
alone, since a request lost on a dying connection could only be saved by a hidden retry. One that is lost all the
same has a class of its own (`stale_connection`): it says nothing against the server.
TLS is the event loop's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import select
import socket
import ssl
from operator import itemgetter
from time import monotonic
from typing import cast

from engines.client_limits import MANY_FILES, client_limit, errnos, out_of_files
from engines.contract import EngineError, Recorder, caught_up
from engines.http.held import LOOK_S, READ_BYTES, SHARED_BYTES, forget, most_bytes, too_much, why
from engines.http.http1 import Head, HttpParseError, HttpTooLarge, ResponseWatcher
from engines.http.reader import AnyReader, start_reader
from engines.http.tap import make_tap

MAX_RESPONSE_BYTES = 64 * 1024 * 1024  # of one answer held in memory; some 200,000 tokens at one event each

MAX_READS = MAX_RESPONSE_BYTES // 64  # of one answer: a read held in memory costs some 80 bytes besides its own

MAX_IDLE_S = 4.0  # uvicorn, under most servers, closes after 5 s

IDLE_SHARE = 0.8  # of the time that a server's own Keep-Alive header allows

RACE_IDLE_S = 0.5  # no server's keep-alive is shorter

STALE = (
    "the server closed a kept-alive connection as the request left (a lost race, no dropped request): "
    "--engine-option keep_alive=false opens a connection for each"
)
_KEEP_ALIVE_S = re.compile(r"timeout=(\d{1,6})")


class Connection(asyncio.Protocol):
    """One TCP or TLS connection. Busy from `request` until the response's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_response_bytes: int, ending: bytes) -> None:
        self._loop = loop
        self._ending = ending
        self.transport: asyncio.Transport | None = None
        self.reusable = True
        self._max_bytes = max_response_bytes
        self.readable = select.poll()
        self.idle_since_s, self.idle_limit_s = 0.0, MAX_IDLE_S
        self._idled_s = 0.0  # before the request that runs
        self._served = False  # an answer before
        self._unread = False  # the peer had closed before it read what was sent
        self._watcher: ResponseWatcher | None = None
        self._done: asyncio.Future[Head] | None = None
        self._tap = make_tap(self._look)
        self._tap.listen(None, None, None, max_response_bytes, MAX_READS)
        self.data_received = self._tap.feed  # type: ignore[method-assign,assignment]
        self._plain_fd = -1  # of a connection without TLS
        self._reader: AnyReader | None = None
        self._reading = 0  # the reader's name for this connection

    def read_by(self, reader: AnyReader) -> None:
        """The reader reads from now on, and the event loop no more; it goes on where the reader can't."""
        transport = self.transport
        if self._reader is not None or transport is None or transport.is_closing():
            return
        transport.pause_reading()
        try:
            self._reading = reader.add(self._plain_fd, self._tap, self._reading_ended)
        except OSError:
            transport.resume_reading()
            return
        self._reader = reader

    def catch_up(self) -> None:
        """What the reader has read so far goes where the event loop would have put it."""
        if self._reader is not None:
            self._reader.take(self._reading)

    def eof_received(self) -> None:
        """The peer sends no more; nor does this side then."""
        self._look_for_reset()

    def _reading_ended(self, number: int) -> None:
        if not number:
            self._look_for_reset()
        self._ended(OSError(number, os.strerror(number)) if number else None)
        self.close()

    def _look_for_reset(self) -> None:
        """A peer that has closed before it reads a request resets: the error then waits behind the end of its stream."""
        assert self.transport is not None
        peer = socket.socket(fileno=self.transport.get_extra_info("socket").fileno())
        try:
            self._unread = peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (errno.EPIPE, errno.ECONNRESET)
        finally:
            peer.detach()

    def _listen(self, recorder: Recorder) -> None:
        """Reads are the recorder's from now on."""
        stamps, payloads = recorder.lists() or (None, None)
        recorder.catch_up = self.catch_up
        self._tap.listen(recorder.chunk, stamps, payloads, self._max_bytes, MAX_READS)
        self._reads = recorder.payloads
        self._looked = 0
        self._watcher = ResponseWatcher(self._ending)

    # -- a request's life, in wire order ------------------------------------

    async def request(self, head_and_body: bytes, recorder: Recorder) -> Head:
        """Send, pass every read to the recorder, return the head when the response is complete."""
        assert self.transport is not None
        self._listen(recorder)
        self._done = self._loop.create_future()
        recorder.sent()
        self._write(head_and_body)
        try:
            return await self._done
        except BaseException:
            self.catch_up()
            self.close()
            raise
        finally:
            recorder.catch_up = caught_up
            self._watcher = self._done = None
            self._tap.listen(None, None, None, self._max_bytes, MAX_READS)

    @property
    def busy(self) -> bool:
        """Whether an answer is coming in, or waited for."""
        return self._watcher is not None

    def held_bytes(self) -> int:
        """What its answer holds in memory so far."""
        tap = self._tap
        return self._max_bytes - tap.left_bytes + READ_BYTES * (MAX_READS - tap.left_reads)

    def give_up(self, why: str) -> None:
        """End the answer that is coming in: there is no memory for it."""
        forget(self._reads)
        self._fail(EngineError("too_large", why))

    def _write(self, data: bytes) -> None:
        """At once, where the event loop would first run what else is ready: the stamp is of now. What the kernel
        does not take, and any error, is the event loop's."""
        assert self.transport is not None
        written = 0
        if self._plain_fd >= 0 and not self.transport.is_closing():
            try:
                written = os.write(self._plain_fd, data)
            except OSError:
                pass
        if written < len(data):
            self.transport.write(data[written:])

    def _look(self, data: bytes) -> None:
        """Was this read the last one? Called by the tap, for those that could be."""
        watcher, tap = self._watcher, self._tap
        if watcher is None:
            self.close()  # bytes that nobody asked for
            return
        reads = self._reads
        held_back = reads[self._looked : -1]
        self._looked = len(reads)
        try:
            if watcher.feed(data, held_back):
                self._finish(watcher)
            elif tap.left_bytes < 0:
                self.give_up(f"response is over {self._max_bytes} bytes")
            elif tap.left_reads < 0:
                self.give_up(f"response came in over {MAX_READS} reads")
            tap.quiet = watcher.quiet
        except HttpParseError as error:
            self._fail(EngineError("too_large" if isinstance(error, HttpTooLarge) else "malformed_stream", str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.catch_up()
        self._leave_reader()
        self._ended(exc)

    def _ended(self, exc: Exception | None) -> None:
        """No more will come."""
        self.reusable = False
        watcher = self._watcher
        if watcher is None or self._done is None:
            return
        if exc is None and watcher.finished_by_close():
            self._finish(watcher)
        elif isinstance(exc, ssl.SSLError):
            self._fail(EngineError("tls", str(exc)))
        elif watcher.head is None:
            lost = (
                self._unread or self._idled_s >= RACE_IDLE_S or (isinstance(exc, OSError) and exc.errno in (errno.EPIPE, errno.ECONNRESET))
            )
            self._fail(closed_unanswered(race=self._served and not self._reads and lost))
        elif exc is not None:
            self._fail(EngineError("connection_reset", f"connection reset in the response: {type(exc).__name__}"))
        else:
            self._fail(EngineError("truncated_stream", "connection closed in the middle of the response"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class
        fd = transport.get_extra_info("socket").fileno()
        self.readable.register(fd, select.POLLIN)
        if transport.get_extra_info("sslcontext") is None:
            self._plain_fd = fd

    # -- ends -----------------------------------------------------------------

    def _finish(self, watcher: ResponseWatcher) -> None:
        assert watcher.head is not None
        self.reusable = self.reusable and watcher.head.keep_alive
        self._served = True
        if self._done is not None and not self._done.done():
            self._done.set_result(watcher.head)

    def _fail(self, error: EngineError) -> None:
        self.reusable = False
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def close(self) -> None:
        """Drop the connection at once; what was still to be sent is not."""
        self.reusable = False
        self._leave_reader()
        if self.transport is not None:
            self.transport.abort()

    def _leave_reader(self) -> None:
        """Before the socket is closed, since its number may be given to another."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.remove(self._reading)

    def is_fresh(self) -> bool:
        """Whether the next request may go out on it."""
        if self._reader is not None:
            self.catch_up()
        self._idled_s = idled_s = monotonic() - self.idle_since_s
        transport = self.transport
        fresh = self.reusable and idled_s < self.idle_limit_s and transport is not None and not transport.is_closing()
        return fresh and not self.readable.poll(0)

    @property
    def open(self) -> bool:
        """Whether it may be kept for a next request."""
        return self.reusable and self.transport is not None and not self.transport.is_closing()


class Pool:
    """Connections to one address, opened when needed, reused last-in first-out."""

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        *,
        ending: bytes = b"",
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        reuse: bool = True,
    ) -> None:
        self._ending, self._reuse = ending, reuse
        self._host, self._port, self._tls = host, port, tls
        self._max_bytes = max_response_bytes
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._reader: AnyReader | None = None
        self._most_bytes = most_bytes()
        self._looking: asyncio.TimerHandle | None = None

    async def request(self, head_and_body: bytes, recorder: Recorder, *, many_reads: bool = False) -> Head:
        """One exchange; `many_reads` where the answer will come in many. Raises EngineError; cancelling it
        drops the connection."""
        connection = self._take_idle() or await self._connect()
        if self._looking is None:
            self._looking = self._loop.call_later(LOOK_S, self._look_at_memory)
        if many_reads and self._tls is None:
            self._read_by_thread(connection)
        try:
            head = await connection.request(head_and_body, recorder)
        except BaseException:
            self._drop(connection)
            raise
        if connection.open and self._reuse:
            connection.idle_since_s = monotonic()
            connection.idle_limit_s = _idle_limit_s(head) if "keep-alive" in head.headers else MAX_IDLE_S
            self._idle.append(connection)
        else:
            self._drop(connection)
        return head

    def _read_by_thread(self, connection: Connection) -> None:
        if self._reader is None:
            self._reader = start_reader(self._loop)
        if self._reader is not None:
            connection.read_by(self._reader)

    def _look_at_memory(self) -> None:
        """Give up the largest answers while all together hold too much; for as long as one is coming in."""
        coming = [connection for connection in self._all if connection.busy]
        self._looking = self._loop.call_later(LOOK_S, self._look_at_memory) if coming else None
        held = [connection.held_bytes() for connection in coming]
        total = sum(held)
        for own, connection in sorted(zip(held, coming, strict=True), key=itemgetter(0), reverse=True) if total > SHARED_BYTES else ():
            if not too_much(total, own, self._most_bytes):
                return
            connection.give_up(why(total, own))
            total -= own

    def reading_ns(self) -> int:
        """Processor time of the reading thread so far."""
        return 0 if self._reader is None else self._reader.cpu_ns()

    def _take_idle(self) -> Connection | None:
        """An idle connection that the server has not closed, and is not about to close."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_fresh():
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> Connection:
        loop = self._loop
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(loop, self._max_bytes, self._ending), self._host, self._port, ssl=self._tls
            )
        except Exception as error:
            raise connect_error(error, tls=self._tls is not None) from error
        self._all.add(connection)
        return connection

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._all.discard(connection)

    async def close(self) -> None:
        """Close every connection and let the loop see it; may be called again."""
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._idle.clear()
        if self._looking is not None:
            self._looking.cancel()
        if self._reader is not None and self._reader.fileno() >= 0:
            self._loop.remove_reader(self._reader.fileno())
            self._reader.close()
        await asyncio.sleep(0)


def closed_unanswered(*, race: bool) -> EngineError:
    """A connection that ended without a byte of an answer. `race`: it had served before, and what is known says that the server
    had closed it before it read the request."""
    return EngineError("stale_connection", STALE) if race else EngineError("connection_reset", "connection closed before any response")


def _idle_limit_s(head: Head) -> float:
    """How long a connection may idle: less than the server says it waits."""
    timeout = _KEEP_ALIVE_S.search(head.headers["keep-alive"])
    return MAX_IDLE_S if timeout is None else min(MAX_IDLE_S, IDLE_SHARE * int(timeout[1]))


def connect_error(error: Exception, *, tls: bool) -> EngineError:
    """Name what kept a connection from opening; one place for both transports."""
    if errno.ECONNREFUSED in errnos(error):  # of all addresses tried, the one that tells most
        return EngineError("connection_refused", "nothing listens there")
    if limit := client_limit(error):
        return limit
    if isinstance(error, socket.gaierror):
        return (
            EngineError("client_limit", MANY_FILES)
            if out_of_files()
            else EngineError("name_not_found", f"name does not resolve: {error.strerror}")
        )
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return EngineError("tls", getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error))
    if isinstance(error, TimeoutError):
        return EngineError("connect_timeout", "no response to the connection attempt")
    if tls and isinstance(error, ConnectionError | EOFError):
        return EngineError("tls", "connection cut in the TLS handshake")
    if isinstance(error, ConnectionResetError):
        return EngineError("connection_reset", "connection reset as it opened")
    if isinstance(error, OSError):  # no route, network down, not permitted: nobody could be asked
        return EngineError("connection_refused", error.strerror or str(error))
    if isinstance(error, UnicodeError):  # a host name with an empty or too long label
        return EngineError("name_not_found", "the host name is not a valid one")
    raise error
