"""The server's own histograms beside the client's latencies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from bytemlperf.runs.kinds import Table
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.metrics.counted import counted_of, total
from bytemlperf_llm.metrics.prefix import ServerCounts, server_counts
from bytemlperf_llm.metrics.server import bucket_ms, network_of, network_warnings, server_of
from bytemlperf_llm.pages.server import server_sections
from bytemlperf_llm.run.counters import EngineCounters
from bytemlperf_llm.run.network import MEANWHILE, TRIES, Network
from engines.contract import Counted, Histogram
from engines.counted import UNKNOWN, grown

TTFT = Histogram(upper_s=(0.1, 0.5), counts=(3, 10, 11), sum_s=3.05)


def told(latencies: dict[str, Any], others: int = 0, missing: Sequence[str] = (), **counts: dict[str, float]) -> dict[str, Any]:
    """`server` of summary.json."""
    return {"latencies": latencies, "other_requests": others, "missing": missing, "counts": counts.get("counts", {})}


def of(*values: int, sum_s: float = 0.0) -> Counted:
    return Counted(latencies={"ttft": Histogram(upper_s=(0.1, 0.5), counts=values, sum_s=sum_s)}, counts={"steps": float(values[-1])})


def test_only_what_grew_counts():
    after = Counted(counts={"steps": 11.0, "prefix_hits": 4.0}, latencies={"ttft": TTFT, "queue": TTFT}, missing=("oh",))
    assert grown(of(1, 2, 2, sum_s=0.05), after) == Counted(
        counts={"steps": 9.0, "prefix_hits": 4.0},
        latencies={"ttft": Histogram(upper_s=(0.1, 0.5), counts=(2, 8, 9), sum_s=3.0), "queue": TTFT},
        missing=("oh",),
    )
    assert grown(Counted(missing=(UNKNOWN,)), after) == Counted(missing=("oh", UNKNOWN))
    assert grown(Counted(missing=("there are none",)), Counted(missing=("there are none",))) == Counted(missing=("there are none",))
    assert grown(Counted(), after).counts == after.counts
    assert grown(of(5, 6, 12), after).latencies == {"queue": TTFT}
    assert "steps" not in grown(of(5, 6, 12), after).counts
    assert "ttft" not in grown(Counted(latencies={"ttft": Histogram(upper_s=(9.0,), counts=(0, 0), sum_s=0.0)}), after).latencies


async def test_what_servers_counted_is_added_up_over_parts_of_a_run_under_their_names():
    class Counting:
        def __init__(self) -> None:
            self.told: dict[str, Counted] = {}

        async def counted(self) -> dict[str, Counted]:
            return self.told

    engine, run = Counting(), {}
    counters = EngineCounters(engine)
    for begin, end in (((100, 50), (150, 20)), ((150, 20), (160, 25))):
        engine.told = {"": Counted(counts={"prefix_queries": float(begin[0])}), "decode": of(0, 1, 2, sum_s=1.0)}
        await counters.begin()
        engine.told = {
            "": Counted(counts={"prefix_queries": float(end[0]), "prefix_hits": float(end[1])}),
            "decode": of(1, 3, 4, sum_s=2.0),
        }
        await counters.end(run)
    counted = counted_of(run)
    assert counted.counts == {"prefix_queries": 60.0, "prefix_hits": 45.0, "decode_steps": 4.0}
    assert counted.latencies == {"decode_ttft": Histogram(upper_s=(0.1, 0.5), counts=(2, 4, 4), sum_s=2.0)}
    assert server_counts(counted) == ServerCounts(query_tokens=60, hit_tokens=45)
    assert (total(counted, "steps"), total(counted, "drafts")) == (4.0, None)
    await EngineCounters(object()).end(run)
    assert counted_of(run) == counted


def test_a_percentile_is_in_its_bucket():
    assert bucket_ms(TTFT, 0.5) == (100.0, 500.0)
    assert bucket_ms(TTFT, 0.2) == (0.0, 100.0)
    assert bucket_ms(TTFT, 0.99) == (500.0, None)


def test_the_gap_is_the_clients_mean_less_the_servers():
    run = {"counted": {"latencies": {"ttft": {"upper_s": [0.1, 0.5], "counts": [3, 10, 11], "sum_s": 3.3}}, "missing": ["decode is gone"]}}
    summary = {"metrics": {"service_ttft": {"mean": 305e6}}, "outcomes": {"ok": 8, "failed": 1}}
    server = server_of(run, summary)
    assert server is not None
    latency = server.latencies["ttft"]
    assert (latency.count, latency.mean_ms, latency.client_mean_ms) == (11, pytest.approx(300.0), 305.0)
    assert latency.gap_ms == pytest.approx(5.0)
    assert server.other_requests == 2
    assert server.missing == ["decode is gone"]
    assert server_of({}, summary) is None


def test_the_page_has_a_row_for_each_with_what_others_sent():
    latency = {"count": 11, "mean_ms": 300.0, "p50_ms": [100.0, 500.0], "p99_ms": [500.0, None], "client_mean_ms": 305.0, "gap_ms": 5.0}
    table = server_sections({"server": told({"prefill_queue": latency, "ttft": latency}, others=2)})[0]
    assert table.rows[0] == ["TTFT", 11, 300.0, "100 – 500", "above 500", 305.0, 5.0]
    assert table.rows[1][0] == "prefill queue"
    assert "2 requests of others" in table.note
    network = {"ttft_share": 0.001, "min_ms": 0.1, "median_ms": 0.5, "max_ms": 0.9, "jitter_ms": 0.2, "connections": 16}
    table = server_sections({"network": network, "server": told({"ttft": latency}, missing=["oh"])})[0]
    assert [(row[0], row[-1]) for row in table.rows[1:]] == [
        ("gap: network", 0.5),
        ("gap: admission, client", 4.5),
    ]
    bare = latency | {"p50_ms": [0.0, None], "p99_ms": [0.0, None], "gap_ms": None}
    assert server_sections({"server": told({"e2e": bare})})[0].rows[0][3:5] == [
        None,
        None,
    ]
    (text,) = server_sections({"server": told({}, missing=["metrics of gpu: oh"])})
    assert text.body == "metrics of gpu: oh"
    assert server_sections({}) == []


def test_what_the_server_counted_stands_altogether_and_a_second():
    counts = {"decode_steps": 100.0, "decode_step_tokens": 2500.0, "requests": 50.0}
    summary = {"steady_state": {"whole": {"start_ns": 0, "end_ns": 10_000_000_000}}}
    (table,) = server_sections({**summary, "server": told({}, counts=counts)})
    assert isinstance(table, Table)
    assert table.folded
    assert table.rows == [
        ["decode steps", 100.0, 10.0],
        ["decode step tokens", 2500.0, 250.0],
        ["requests", 50.0, 5.0],
        ["decode tokens a step", 25.0, None],
    ]


def test_the_network_has_a_share_of_a_small_ttft_and_is_said_where_it_is_large():
    summary = {"metrics": {"service_ttft": {"percentiles": {"50": 10_000_000}}}}
    near = network_of({"connect_ns": [100_000, 50_000, 200_000]}, summary)
    assert near is not None
    assert (near.connections, near.min_ms, near.median_ms, near.max_ms, near.ttft_share) == (3, 0.05, 0.1, 0.2, 0.01)
    assert near.jitter_ms == pytest.approx(0.1)
    assert network_warnings(near) == []
    far = network_of({"connect_ns": [4_000_000] * 16}, summary)
    assert "at least 40% of the median TTFT is the network" in network_warnings(far)[0]
    assert network_of({}, summary) is None
    unknown = network_of({"connect_ns": [1000]}, {"metrics": {}})
    assert unknown is not None
    assert unknown.ttft_share is None


class Served:
    def __init__(self, port: int) -> None:
        self.port = port

    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", self.port)]


async def test_connections_are_opened_before_and_after_and_a_dead_server_costs_nothing():
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    network, run = Network(Served(port)), {}
    await network.begin()
    await network.end(run)
    assert len(run["connect_ns"]) == 2 * TRIES
    assert min(run["connect_ns"]) > 0
    server.close()
    await server.wait_closed()
    dead, run = Network(Served(port)), {}
    await dead.begin()
    await dead.end(run)
    assert run == {}
    await Network(object()).end(run)
    assert run == {}


async def test_connections_are_timed_meanwhile_on_the_axis_of_the_records(monkeypatch):
    monkeypatch.setattr("bytemlperf_llm.run.network.PERIOD_S", 0.01)
    opened, enough = [], asyncio.Event()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        writer.close()
        if len(opened) == TRIES + 4:
            enough.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    network = Network(Served(server.sockets[0].getsockname()[1]))
    run: dict[str, Any] = {"clock_origin_ns": monotonic_ns(), MEANWHILE: [(-7, 5)]}
    await network.begin()
    await enough.wait()
    await network.end(run)
    first, *others = run[MEANWHILE]
    assert first == (-7, 5), "of the part before it was resumed"
    assert len(others) >= 3
    assert others == sorted(others)
    assert all(0 < at_ns < monotonic_ns() - run["clock_origin_ns"] and took_ns > 0 for at_ns, took_ns in others)
    server.close()
