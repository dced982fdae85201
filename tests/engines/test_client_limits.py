"""What this machine lacks is never the server's fault, and a lost race on a kept-alive connection is no dropped request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import threading

import pytest

from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from engines.client_limits import client_limit
from engines.contract import EngineUnavailable, Model
from engines.http import pool as http_pool
from engines.http.pool import connect_error
from engines.openai.engine import OpenAIEngine
from tests.engines.small_server import answering, models, stream
from tests.virtual import Collected, ScriptedEngine, make_request


async def records_of(engine, count=1, gap_s=0.0):
    sink = Collected()
    for index in range(count):
        worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig())
        await worker.run_closed(iter([make_request(index)]), 1, monotonic_ns())
        await asyncio.sleep(gap_s)
    return sink.records


@contextlib.contextmanager
def no_more_files():
    """This process can open no file meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 64, hard))

    def hold_the_rest() -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))

    try:
        hold_the_rest()
        yield hold_the_rest
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
async def test_too_many_open_files_are_the_clients_limit(transport, host):
    async with answering(lambda asked: models("lab") if asked.method == "GET" else stream()) as server:
        engine = OpenAIEngine()
        url = f"http://{host}:{server.port}"
        await engine.start(Model(name="lab"), {"base_url": url, "transport": transport, "keep_alive": "false"})
        with no_more_files() as hold_the_rest:
            await asyncio.sleep(0.1)  # connections of the start that are still being closed give theirs back
            hold_the_rest()
            (record,) = await records_of(engine)
        await engine.close()
    assert (record.outcome, record.error_class) == ("failed", "client_limit")
    assert "ulimit -n" in record.error_detail


async def test_they_are_told_at_the_start_too():
    engine = OpenAIEngine()
    with no_more_files(), pytest.raises(EngineUnavailable, match=r"client limit.*ulimit -n"):
        await engine.start(None, {"base_url": "http://127.0.0.1:9"})
    await engine.close()


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (OSError(errno.EMFILE, "x"), "client_limit"),
        (OSError(errno.ENFILE, "x"), "client_limit"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "client_limit"),
        (OSError(errno.ENOBUFS, "x"), "client_limit"),
        (OSError(errno.ENOMEM, "x"), "client_limit"),
        (MemoryError(), "client_limit"),
        (RuntimeError("can't start new thread"), "client_limit"),
        (OSError("Multiple exceptions: [Errno 99] Cannot assign, [Errno 111] Connect call failed"), "connection_refused"),
        (OSError("Multiple exceptions: [Errno 24] Too many, [Errno 24] Too many"), "client_limit"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "connection_refused"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "connection_refused"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "connection_reset"),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "name_not_found"),
        (UnicodeError("label too long"), "name_not_found"),
    ],
)
def test_what_keeps_a_connection_from_opening(error, error_class):
    assert connect_error(error, tls=False).error_class == error_class


def test_a_name_that_can_not_be_looked_up_for_want_of_files():
    with no_more_files():
        error = connect_error(socket.gaierror(socket.EAI_AGAIN, "try again"), tls=False)
    assert error.error_class == "client_limit"


def test_ordinary_failures_are_none():
    assert client_limit(ValueError("x")) is None
    assert client_limit(OSError(errno.ECONNREFUSED, "x")) is None


async def test_an_engine_that_runs_out_of_memory(monkeypatch):
    engine = ScriptedEngine([])

    async def generate(*_):
        raise MemoryError

    monkeypatch.setattr(engine, "generate", generate)
    (record,) = await records_of(engine)
    assert (record.outcome, record.error_class) == ("failed", "client_limit")


# -- kept-alive connections ---------------------------------------------------------


class OnceThenClosed:
    """Serves one request a connection and closes it only when told to: in the instant before the next request leaves."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.close_now, self.closed = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.recv(65536)
        connection.sendall(models("lab"))
        self.close_now.wait(30)
        connection.close()
        self.closed.set()


@pytest.mark.parametrize("many_reads", [0, 1 << 30])
async def test_a_race_that_is_lost_has_its_own_class(many_reads, monkeypatch):
    from engines.openai import endpoint as openai

    monkeypatch.setattr(openai, "MANY_READS", many_reads)
    server, write = OnceThenClosed(), http_pool.Connection._write
    engine = OpenAIEngine()
    await engine.start(Model(name="lab"), {"base_url": f"http://127.0.0.1:{server.port}"})

    def closed_before_writing(connection, data):
        server.close_now.set()
        assert server.closed.wait(30)
        write(connection, data)

    monkeypatch.setattr(http_pool.Connection, "_write", closed_before_writing)
    (record,) = await records_of(engine)
    await engine.close()
    assert (record.outcome, record.error_class) == ("failed", "stale_connection")
    assert "keep_alive=false" in record.error_detail


async def test_a_server_that_drops_requests_is_told_from_it():
    posts = []

    def answer(asked):
        if asked.method == "GET":
            return models("lab")
        posts.append(asked)
        return None if len(posts) % 2 == 0 else stream()

    async with answering(answer) as server:
        engine = OpenAIEngine()
        await engine.start(Model(name="lab"), {"base_url": server.url})
        records = await records_of(engine, 4)
        await engine.close()
    assert [record.error_class for record in records] == [None, "connection_reset", None, "connection_reset"]


async def test_a_connection_is_not_kept_longer_than_the_server_says(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(http_pool, "monotonic", lambda: now_s[0])
    ports = []

    def answer(asked):
        data = models("lab") if asked.method == "GET" else stream()
        return data.replace(b"\r\n", b"\r\nKeep-Alive: timeout=2, max=100\r\n", 1)

    async with answering(answer) as server:
        engine = OpenAIEngine()
        await engine.start(Model(name="lab"), {"base_url": server.url})
        for idle_s in (1.5, 1.7):
            now_s[0] += idle_s
            await records_of(engine)
            ports.append(len(engine._endpoints[0]._pool._all))
            opened = next(iter(engine._endpoints[0]._pool._all))
        await engine.close()
    assert ports == [1, 1]
    assert opened.idle_limit_s == pytest.approx(1.6)
