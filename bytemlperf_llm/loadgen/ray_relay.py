"""What runs on a Ray node: an actor that starts one member process and passes on what it says.

The member is the same process as on one machine, with an event loop that nothing else uses; the
actor's own loop only carries its messages and its log. The driver asks for `news` again and again,
so that the log grows on the driver's disk while the run goes on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.version import __version__
from bytemlperf_llm.loadgen.fleet import log_name
from bytemlperf_llm.loadgen.messages import FromMember, MemberLost, MemberSpec, Note, Refused
from bytemlperf_llm.loadgen.processes import ProcessHandle
from bytemlperf_llm.loadgen.recorder import monotonic_ns

NEWS_EVERY_S = 0.5
LOG_CHUNK_BYTES = 8 << 20


class Place(msgspec.Struct):
    """Where an actor runs. `boot_id` is the same for all that share a kernel, and its clock."""

    version: str
    host: str
    boot_id: str


class News(msgspec.Struct):
    """Messages since the last news. `over`: all has been told and the log is whole. `lost`: why the
    member ended without saying so."""

    messages: list[FromMember]
    over: bool
    lost: str


class Relay:
    """The actor. Everything in and out is JSON bytes or plain numbers."""

    def __init__(self) -> None:
        self._handle: ProcessHandle | None = None
        self._waiting: list[FromMember] = []
        self._arrived = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._ended, self._lost = False, ""
        self._folder = Path()
        self._log = Path()
        self._read_bytes = 0

    async def place(self) -> bytes:
        """A `Place`."""
        return msgspec.json.encode(here())

    async def clock(self) -> int:
        """This machine's CLOCK_MONOTONIC, ns."""
        return monotonic_ns()

    async def prepare(self, spec_json: bytes, environment: dict[str, str]) -> bytes:
        """Start the member and wait until it is ready. `Refused`, or nothing."""
        spec = msgspec.json.decode(spec_json, type=MemberSpec)
        self._folder = Path(tempfile.mkdtemp(prefix="bytemlperf-worker-"))
        self._log = self._folder / log_name(spec.worker)
        spec.log = str(self._log)
        self._handle = ProcessHandle(spec, lambda text: self._tell(Note(text)), environment)
        try:
            await self._handle.start()
        except UserError as error:
            return msgspec.json.encode(Refused(error.cause, error.fix))
        return b""

    async def go(self, origin_ns: int) -> None:
        """Let it begin; the origin is of this machine's clock."""
        assert self._handle is not None
        self._following = asyncio.ensure_future(self._follow(self._handle))
        await self._handle.go(origin_ns)

    async def stop(self) -> None:
        """Let it drain."""
        if self._handle is not None:
            self._handle.stop()

    async def _follow(self, handle: ProcessHandle) -> None:
        try:
            async for message in handle.messages():
                self._tell(message)
        except MemberLost as lost:
            self._lost = str(lost)
        self._ended = True
        self._arrived.set()

    def _tell(self, message: FromMember) -> None:
        self._waiting.append(message)
        self._arrived.set()

    async def news(self) -> tuple[bytes, bytes]:
        """A `News`, and whole lines of the log that weren't told yet. Waits a moment for some."""
        if not self._ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), NEWS_EVERY_S)
        self._arrived.clear()
        ended = self._ended
        messages, self._waiting = self._waiting, []
        lines = self._next_lines()
        over = ended and not lines
        return msgspec.json.encode(News(messages, over, self._lost if over else "")), lines

    def _next_lines(self) -> bytes:
        try:
            with self._log.open("rb") as file:
                file.seek(self._read_bytes)
                chunk = file.read(LOG_CHUNK_BYTES)
        except OSError:
            return b""
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        return whole

    async def close(self) -> None:
        """End the member; what it wrote here has been told, and goes."""
        if self._handle is not None:
            await self._handle.close()
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)


def here() -> Place:
    """Of this process."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot_id = f"pid-{os.getpid()}"
    return Place(__version__, socket.gethostname(), boot_id)
