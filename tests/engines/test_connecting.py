"""A server that can't be reached in mid-run: each way has its class, over both transports, and the run goes on."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from engines.contract import EngineUnavailable, Model
from engines.openai.engine import OpenAIEngine
from tests.hostile.server import HostileServer, Settings
from tests.virtual import Collected, make_request

TRANSPORTS = pytest.mark.parametrize("transport", ["lean", "aiohttp"])


async def started(url, transport, model="honest"):
    """An engine whose server answered at its start."""
    engine = OpenAIEngine()
    await engine.start(Model(name=model), {"base_url": url, "transport": transport})
    return engine


async def one_record(engine, timeouts=None):
    sink = Collected()
    worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig(timeouts=timeouts or Timeouts()))
    async with asyncio.timeout(60):
        await worker.run_closed(iter([make_request(0)]), 1, monotonic_ns())
    await engine.close()
    (record,) = sink.records
    return record


@TRANSPORTS
async def test_a_server_that_has_gone_refuses(transport):
    async with HostileServer(Settings()) as server:
        engine = await started(server.url, transport)
    record = await one_record(engine)
    assert (record.outcome, record.error_class) == ("failed", "connection_refused"), record.error_detail


@TRANSPORTS
async def test_a_name_that_is_known_no_longer_is_told(transport, monkeypatch):
    async with HostileServer(Settings()) as server:
        engine = await started(server.url.replace("127.0.0.1", "localhost"), transport)
    if transport == "aiohttp":
        engine._endpoints[0]._aiohttp._session.connector.clear_dns_cache()

    async def unknown(*_arguments, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", unknown, raising=False)
    record = await one_record(engine)
    assert (record.outcome, record.error_class) == ("failed", "name_not_found"), record.error_detail


@TRANSPORTS
async def test_a_name_that_never_was_is_told_at_the_start(transport):
    with pytest.raises(EngineUnavailable, match=r"no-such-host\.invalid"):
        await started("http://no-such-host.invalid:8000", transport)


@TRANSPORTS
async def test_a_connection_that_is_not_taken_times_out(transport):
    """A listener whose queue is full: the kernel leaves further connections unanswered."""
    async with HostileServer(Settings()) as server:
        engine = await started(server.url, transport)
        port = int(server.url.rsplit(":", 1)[1])
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        record = await one_record(engine, Timeouts(connect_ns=500_000_000))
    assert (record.outcome, record.error_class) == ("failed", "connect_timeout"), record.error_detail


MEMORY = """
import asyncio, resource, sys
from tests.hostile.server import HostileServer, Settings
from tests.engines.test_connecting import one_record, started

async def main():
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE)
    url = (await server.stdout.readline()).decode().strip()
    engine = await started(url, "lean", MODEL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    record = await one_record(engine)
    server.kill()
    await server.wait()
    print(record.error_class, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)

asyncio.run(main())
"""
SERVER = """
import asyncio
from tests.hostile.server import HostileServer, Settings

async def main():
    async with HostileServer(Settings(long_line_bytes=400 << 20, header_bomb_bytes=100 << 20, bomb_bytes=200 << 20)) as server:
        print(server.url, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("model", "error_class", "cap_bytes"),
    [("long_line", "too_large", 320 << 20), ("header_bomb", "too_large", 20 << 20), ("bomb", "content_encoding", 80 << 20)],
)
def test_memory_stays_under_its_cap(model, error_class, cap_bytes):
    """400 MB in a line, 100 MB of headers, a bomb of 200 MB: the client grows by some copies of its cap of 64 MiB at most."""
    program = MEMORY.replace("SERVER", repr(SERVER)).replace("MODEL", repr(model))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    found, grown_bytes = ended.stdout.split()
    assert (found, int(grown_bytes) < cap_bytes) == (error_class, True), ended.stdout
