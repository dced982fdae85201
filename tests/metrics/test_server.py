"""The server's own histograms beside the client's latencies."""

from __future__ import annotations

import pytest

from bytemlperf_llm.metrics.server import bucket_ms, grown, server_of
from bytemlperf_llm.pages.server import server_sections
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
