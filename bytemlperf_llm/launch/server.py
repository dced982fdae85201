"""A server that a command starts: in a process group of its own, waited for by its health page, with a log, stopped whole at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import msgspec

from bytemlperf.child.inside import die_with_parent
from bytemlperf.child.process import kill, last_words
from bytemlperf.command.waiting import waiting
from bytemlperf.errors import UserError
from bytemlperf.models.resolve import DEFAULT_MODEL
from bytemlperf.models.resolve import resolve as resolve_model
from bytemlperf.redaction import Redactor
from bytemlperf_llm.launch.presets import command_of, filled, needs_model, secrets_of
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.run.preflight import Say

LOG = "logs/server.log"
PATIENCE_S = 600.0
"""Until it answers, where --ready-check-timeout-sec says nothing."""
STOP_S = 20.0
POLL_S = 0.5
ASK_S = 2.0
HEALTH = ("/health", "/v1/models", "/")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Launched(msgspec.Struct, kw_only=True):
    """`launched` of run.json: the command, how long it took until the server answered, the version that it tells, its log, and how it ended
    where it ended by itself."""

    command: list[str]
    ready_s: float = 0.0
    version: str = ""
    log: str = LOG
    ended: str = ""


class Server:
    """One launched server. `facts` are what run.json has of it; it is `killed` where it didn't end when it was told to."""

    def __init__(self, words: list[str], base_url: str, log: IO[bytes], redactor: Redactor, otlp: str = "") -> None:
        self.facts = Launched(command=[redactor(word) for word in words])
        self._words, self._url, self._log = words, base_url.rstrip("/"), log
        self._traced = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"} if otlp else {}
        self._process: subprocess.Popen[bytes] | None = None
        self.killed = False

    async def up(self, patience_s: float) -> None:
        """Start it and wait until it answers. Raises UserError with its last words where it doesn't."""
        began_s = time.monotonic()
        self._start()
        assert self._process is not None
        while not await asyncio.to_thread(self._answers):
            if self._process.poll() is not None:
                raise UserError(f"the server ended while it started: {self._last_words()}", f"see {self._log.name}")
            if time.monotonic() - began_s > patience_s:
                why = f"the server did not answer at {self._url} within {patience_s:g} s: {self._last_words()}"
                raise UserError(why, f"wait longer with --ready-check-timeout-sec, or see {self._log.name}")
            await asyncio.sleep(POLL_S)
        self.facts.ready_s = round(time.monotonic() - began_s, 1)
        self.facts.version = await asyncio.to_thread(self._version)

    def _start(self) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": self._log, "stderr": subprocess.STDOUT}
        more: dict[str, Any] = {
            "env": {**os.environ, **self._traced, "PATH": path},
            "start_new_session": True,
            "preexec_fn": die_with_parent,
        }
        try:
            self._process = subprocess.Popen(self._words, **streams, **more)
        except OSError as error:
            raise UserError(f"can't start {self._words[0]}: {error.strerror}", "install the server, or give its full path") from None

    def _answers(self) -> bool:
        return any(self._get(path) is not None for path in HEALTH)

    def _version(self) -> str:
        with contextlib.suppress(msgspec.DecodeError, AttributeError):
            return str(msgspec.json.decode(self._get("/version") or b"").get("version", ""))[:80]
        return ""

    def _get(self, path: str) -> bytes | None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self._url + path, timeout=ASK_S) as response:
                page: bytes = response.read(1 << 16)
        except (OSError, ValueError):
            return None
        return page

    def _last_words(self) -> str:
        self._log.flush()
        return last_words(self._log) or "it said nothing"

    def look(self) -> None:
        """Note how it ended, if it has."""
        if self._process is not None and self._process.poll() is not None:
            self.facts.ended = f"exit status {self._process.returncode}: {self._last_words()}"

    def close(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.killed = True
        kill(self._process)


@contextlib.asynccontextmanager
async def launched(plan: Plan, folder: Path | None, redactor: Redactor, say: Say) -> AsyncIterator[Server | None]:
    """The server of the plan, up; its log is in the run's `folder`. None where the plan starts none. Raises UserError."""
    if plan.engine.launch is None:
        yield None
        return
    words, url = _words(plan, say)
    redactor.add(secrets_of(words))
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bmp-server-")))
        (folder / LOG).parent.mkdir(parents=True, exist_ok=True)
        server = Server(words, url, stack.enter_context((folder / LOG).open("w+b")), redactor, plan.engine.otlp)
        stack.callback(server.close)
        say(redactor(f"starting the server: {' '.join(words)}"))
        with waiting("waiting for the server", quiet=plan.output.run.quiet):
            await server.up(plan.engine.ready_timeout_s or PATIENCE_S)
        say(f"the server is ready after {server.facts.ready_s:g} s" + (f", version {server.facts.version}" if server.facts.version else ""))
        yield server


def _words(plan: Plan, say: Say) -> tuple[list[str], str]:
    """The command line, and the server's root. Raises UserError."""
    url = urlsplit(plan.engine.options.get("base_url", "http://127.0.0.1:8000"))
    host, port = url.hostname or "127.0.0.1", url.port or 8000
    if host not in LOOPBACK:
        raise UserError(f"--launch starts a server on this machine, and --base-url is {host}", "give --base-url http://127.0.0.1:PORT")
    words = command_of(plan.engine.launch or "", traced=bool(plan.engine.otlp))
    model = resolve_model(plan.engine.model or DEFAULT_MODEL, say) if needs_model(words) else None
    with contextlib.suppress(OSError), socket.create_connection((host, port), ASK_S):
        raise UserError(f"something listens on {host}:{port} already", "give another port with --base-url http://127.0.0.1:PORT")
    name = plan.engine.model or DEFAULT_MODEL
    return filled(words, model, name, host, port, plan.engine.otlp), f"http://{host}:{port}"
