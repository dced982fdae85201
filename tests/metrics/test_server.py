"""The server's own histograms beside the client's latencies."""

from __future__ import annotations

import asyncio

import pytest

from bytemlperf_llm.metrics.server import bucket_ms, grown, network_of, network_warnings, server_of
from bytemlperf_llm.pages.server import server_sections
from bytemlperf_llm.run.network import TRIES, Network
from engines.contract import Histogram
from engines.openai.histograms import histograms_of

PAGE = b"""# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.5",model_name="m"} 9.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 10.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 10.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 3.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1",model_name="m"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.5",model_name="m"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="m"} 1.0
vllm:time_to_first_token_seconds_sum{engine="1",model_name="m"} 0.05
vllm:request_queue_time_seconds_bucket{le="1.0"} 4.0
vllm:request_queue_time_seconds_bucket{le="+Inf"} 4.0
vllm:request_queue_time_seconds_sum NaN
vllm:time_to_first_token_seconds_bucket{le="oh"} 1.0
vllm:request_decode_time_seconds_bucket }{ 1
"""
TTFT = Histogram(upper_s=(0.1, 0.5), counts=(3, 10, 11), sum_s=3.05)


def test_a_page_is_read_summed_over_engines_without_what_is_no_sample():
    assert histograms_of(PAGE) == {"ttft": TTFT}
    assert histograms_of(b"") == {}
    assert histograms_of(b"\xff vllm:time_to_first_token_seconds_bucket") == {}


def test_only_what_grew_counts_and_a_server_that_started_again_has_nothing():
    before = Histogram(upper_s=(0.1, 0.5), counts=(1, 2, 2), sum_s=0.05)
    assert grown({"ttft": before}, {"ttft": TTFT}) == {"ttft": Histogram(upper_s=(0.1, 0.5), counts=(2, 8, 9), sum_s=3.0)}
    assert grown({}, {"ttft": TTFT}) == {"ttft": TTFT}
    assert grown({"ttft": TTFT}, {"ttft": before}) == {}
    assert grown({"ttft": Histogram(upper_s=(9.0,), counts=(0, 0), sum_s=0.0)}, {"ttft": TTFT}) == {}


def test_a_percentile_is_in_its_bucket():
    assert bucket_ms(TTFT, 0.5) == (100.0, 500.0)
    assert bucket_ms(TTFT, 0.2) == (0.0, 100.0)
    assert bucket_ms(TTFT, 0.99) == (500.0, None)


def test_the_gap_is_the_clients_mean_less_the_servers():
    run = {"server_histograms": {"ttft": {"upper_s": [0.1, 0.5], "counts": [3, 10, 11], "sum_s": 3.3}}}
    summary = {"metrics": {"service_ttft": {"mean": 305e6}}, "outcomes": {"ok": 8, "failed": 1}}
    server = server_of(run, summary)
    assert server is not None
    latency = server.latencies["ttft"]
    assert (latency.count, latency.mean_ms, latency.client_mean_ms) == (11, pytest.approx(300.0), 305.0)
    assert latency.gap_ms == pytest.approx(5.0)
    assert server.other_requests == 2
    assert server_of({}, summary) is None


def test_the_page_has_a_row_for_each_with_what_others_sent():
    latency = {"count": 11, "mean_ms": 300.0, "p50_ms": [100.0, 500.0], "p99_ms": [500.0, None], "client_mean_ms": 305.0, "gap_ms": 5.0}
    table = server_sections({"server": {"latencies": {"prefill_queue": latency, "ttft": latency}, "other_requests": 2}})[0]
    assert table.rows[0] == ["TTFT", 11, 300.0, "100 – 500", "above 500", 305.0, 5.0]
    assert table.rows[1][0] == "prefill queue"
    assert "2 requests of others" in table.note
    assert server_sections({}) == []


def test_the_network_has_a_share_of_a_small_ttft_and_is_said_where_it_is_large():
    summary = {"metrics": {"service_ttft": {"percentiles": {"50": 10_000_000}}}}
    near = network_of({"connect_ns": [100_000, 50_000, 200_000]}, summary)
    assert near is not None
    assert (near.connections, near.min_ms, near.median_ms, near.max_ms, near.ttft_share) == (3, 0.05, 0.1, 0.2, 0.01)
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
