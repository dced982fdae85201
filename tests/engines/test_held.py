"""All answers together have a limit on what they hold: many large ones are failures of a class, and honest ones go on."""

from __future__ import annotations

import asyncio

import pytest

from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from engines.contract import Model
from engines.http import aiohttp_transport as http_aiohttp
from engines.http import held
from engines.http import pool as http_pool
from engines.http.held import LARGE_BYTES, SHARED_BYTES, forget, too_much
from engines.openai.engine import OpenAIEngine
from tests.engines.test_openai import READINGS, read_by
from tests.hostile.connection import Settings
from tests.hostile.server import HostileServer
from tests.virtual import Collected, make_request

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("together", "largest", "goes"),
    [
        (SHARED_BYTES, 64 * MIB, False),
        (SHARED_BYTES + 1, 64 * MIB, True),
        (SHARED_BYTES + 1, LARGE_BYTES, False),  # thousands of honest streams
        (4096 * MIB, MIB, False),
        (4096 * MIB + 1, MIB, True),
    ],
)
def test_which_answers_have_to_go(together, largest, goes):
    assert too_much(together, largest, 4096 * MIB) is goes


def test_a_quarter_of_the_memory_is_shared_among_the_cores(monkeypatch):
    monkeypatch.setattr(held.os, "sysconf", lambda name: {"SC_PHYS_PAGES": 32 * 1024 * MIB // 4096, "SC_PAGE_SIZE": 4096}[name])
    monkeypatch.setattr(held.os, "cpu_count", lambda: 4)
    assert held.most_bytes() == 2048 * MIB
    monkeypatch.setattr(held.os, "cpu_count", lambda: 64)
    assert held.most_bytes() == 1024 * MIB, "never less"


async def records_of(options, large, honest):
    """Requests for endless lines and honest ones, all at once."""
    async with HostileServer(Settings(pace_s=0.0005, long_line_bytes=40 * MIB)) as server:
        engines = [OpenAIEngine(), OpenAIEngine()]
        sink = Collected()
        workers = []
        for engine, name, count in zip(engines, ("long_line", "honest"), (large, honest), strict=True):
            await engine.start(Model(name=name), {"base_url": server.url} | options)
            worker = Worker(engine, sink, Pacer(monotonic_ns), WorkerConfig())
            workers.append(worker.run_closed(iter([make_request(index) for index in range(count)]), count, monotonic_ns()))
        try:
            await asyncio.gather(*workers)
        finally:
            for engine in engines:
                await engine.close()
    return sink.records


def limited(monkeypatch):
    """A hundredth of the limits, and a look for each megabyte."""
    monkeypatch.setattr(held, "SHARED_BYTES", 24 * MIB)
    monkeypatch.setattr(http_pool, "SHARED_BYTES", 24 * MIB)
    monkeypatch.setattr(http_pool, "LOOK_S", 0.001)


@READINGS
async def test_large_answers_fail_before_each_has_reached_its_own_limit(reading, monkeypatch):
    read_by(reading, monkeypatch)
    limited(monkeypatch)
    records = await records_of({"transport": "lean"}, large=4, honest=8)
    assert_only_the_large_failed(records)


async def test_the_other_transport_agrees(monkeypatch):
    limited(monkeypatch)
    assert_only_the_large_failed(await records_of({"transport": "aiohttp"}, large=4, honest=8))
    assert http_aiohttp.too_much is too_much


def assert_only_the_large_failed(records):
    assert sum(record.outcome == "ok" for record in records) >= 8
    failures = [record for record in records if record.outcome == "failed"]
    assert {record.error_class for record in failures} == {"too_large"}
    together = [record for record in failures if record.error_detail.startswith("responses in flight held ")]
    assert together, "the shared limit came before the 64 MiB of each"


def test_what_was_given_up_is_freed_and_keeps_its_reads():
    head, reads = object(), [bytes(300_000)] * 10
    payloads = [head, *reads]
    forget(payloads)
    assert payloads == [head, *reads[:3], *[b""] * 7]
