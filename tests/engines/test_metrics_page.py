"""Pages of metrics: each dialect's documented wire format, OpenMetrics, and what is no sample.

The pages below are fixtures in the format that each project documents. vLLM's alone is also read from a real server.
"""

from __future__ import annotations

import pytest

from engines.contract import Histogram
from engines.openai.dialects import LATENCIES, SAMPLES
from engines.openai.metrics_page import MAX_SAMPLES, read_page

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } 9"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:prefix_cache_queries_total{engine="0"} 200.0
vllm:prefix_cache_queries_created{engine="0"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0"} 50.0
vllm:num_preemptions_total{engine="0"} 4.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0"} 9.0
vllm:iteration_tokens_total_sum{engine="0"} 4096.0
vllm:iteration_tokens_total_count{engine="0"} 64.0
vllm:spec_decode_num_drafts_total{engine="0"} 10.0
vllm:spec_decode_num_draft_tokens_total{engine="0"} 30.0
vllm:spec_decode_num_accepted_tokens_total{engine="0"} 14.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 9.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 4.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="2"} 1.0
process_start_time_seconds 1.79e+09
"""
SGLANG = b"""sglang:num_running_reqs{model_name="b"} 5.0
sglang:num_queue_reqs{model_name="b"} 1.0
sglang:token_usage{model_name="b"} 0.125
sglang:cache_hit_rate{model_name="b"} 0.75
"""
HISTOGRAM = b"""# TYPE vllm:time_to_first_token_seconds histogram
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
TGI = b"""tgi_batch_current_size 4
tgi_queue_size 2
tgi_request_success{kind="stream"} 5
tgi_request_generated_tokens_sum 320
tgi_request_queue_duration_bucket{le="0.01"} 3
tgi_request_queue_duration_bucket{le="+Inf"} 5
tgi_request_queue_duration_sum 0.5
tgi_request_queue_duration_count 5
tgi_batch_forward_duration_bucket{method="prefill",le="+Inf"} 5
tgi_batch_forward_duration_sum{method="prefill"} 0.25
tgi_batch_forward_duration_bucket{method="decode",le="+Inf"} 95
tgi_batch_forward_duration_sum{method="decode"} 1.75
"""
TRTLLM = b"""trtllm_num_requests_running{model_name="m",engine_type="pytorch"} 6.0
trtllm_num_requests_waiting{model_name="m",engine_type="pytorch"} 1.0
trtllm_kv_cache_utilization{model_name="m",engine_type="pytorch"} 0.5
trtllm_request_success_total{model_name="m",engine_type="pytorch",finished_reason="length"} 8.0
trtllm_time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 4.0
trtllm_time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 8.0
trtllm_time_to_first_token_seconds_sum{model_name="m"} 1.6
trtllm_iteration_latency_seconds{model_name="m"} 0.02
"""
TRITON = b"""nv_inference_request_success{model="m",version="1"} 10
nv_inference_request_duration_us{model="m",version="1"} 2500000
nv_inference_queue_duration_us{model="m",version="1"} 1000000
nv_inference_pending_request_count{model="m",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 7
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.5
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 6239
nv_gpu_power_usage{gpu_uuid="GPU-1"} 300.5
nv_energy_consumption{gpu_uuid="GPU-1"} 9000.0
"""
LLAMACPP = b"""# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 100
llamacpp:prompt_seconds_total 4
llamacpp:tokens_predicted_total 40
llamacpp:tokens_predicted_seconds_total 2
llamacpp:prompt_tokens_seconds 25
llamacpp:predicted_tokens_seconds 20
llamacpp:requests_processing 1
llamacpp:requests_deferred 2
llamacpp:n_decode_total 44
"""
DCGM = b"""# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",modelName="NVIDIA H100"} 300
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-b",modelName="NVIDIA H100"} 200
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a"} 4000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-b"} 2000
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a"} 80
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b"} 20
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-a"} 1980
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a"} 1024
"""
AMD = b"""amd_gpu_average_package_power{gpu_id="0"} 450
amd_gpu_energy_consumed{gpu_id="0"} 5000000
amd_gpu_gfx_activity{gpu_id="0"} 50
amd_gpu_used_vram{gpu_id="0"} 1000
"""


def once(sum_s: float, count: int) -> Histogram:
    """One without buckets."""
    return Histogram(upper_s=(), counts=(count,), sum_s=sum_s)


def test_vllms_and_sglangs_names_become_ours():
    page = read_page(VLLM)
    assert page.gauges == {"running": 5.0, "waiting": 7.0, "kv_cache_usage": 0.5, "prefix_cache_hit_rate": 0.25}
    assert page.counts == {
        "prefix_queries": 200.0,
        "prefix_hits": 50.0,
        "preemptions": 4.0,
        "step_tokens": 4096.0,
        "steps": 64.0,
        "drafts": 10.0,
        "draft_tokens": 30.0,
        "accepted_tokens": 14.0,
        "accepted_tokens_at_0": 9.0,
        "accepted_tokens_at_1": 4.0,
        "accepted_tokens_at_2": 1.0,
    }
    assert page.begun_s == 1.79e9
    assert read_page(SGLANG).gauges == {"running": 5.0, "waiting": 1.0, "kv_cache_usage": 0.125, "prefix_cache_hit_rate": 0.75}
    assert read_page(HISTOGRAM).latencies == {"ttft": TTFT}
    assert read_page(HISTOGRAM, latencies=False).latencies == {}


def test_sglang_has_no_counter_of_hits_before_the_first():
    page = SGLANG + b'sglang:prompt_tokens_total{model_name="b"} 900.0\n'
    assert read_page(page).counts == {"prompt_tokens": 900.0, "prefix_queries": 900.0}
    hits = b'sglang:cached_tokens_total{cache_source="device"} 500.0\nsglang:cached_tokens_total{cache_source="host"} 40.0\n'
    assert read_page(page + hits).counts["prefix_hits"] == 540
    assert read_page(page + hits).gauges["prefix_cache_hit_rate"] == 0.6


def test_tgi_trtllm_triton_and_llamacpp():
    tgi = read_page(TGI)
    assert tgi.gauges == {"running": 4.0, "waiting": 2.0}
    assert tgi.counts == {"requests": 5.0, "output_tokens": 320.0}
    assert tgi.latencies == {"queue": Histogram(upper_s=(0.01,), counts=(3, 5), sum_s=0.5), "step": once(2.0, 100)}
    trtllm = read_page(TRTLLM)
    assert trtllm.gauges == {"running": 6.0, "waiting": 1.0, "kv_cache_usage": 0.5, "step_s": 0.02}
    assert trtllm.latencies == {"ttft": Histogram(upper_s=(0.1,), counts=(4, 8), sum_s=1.6)}
    triton = read_page(TRITON)
    assert triton.gauges == {"running": 7.0, "waiting": 2.0, "waiting_in_triton": 3.0, "kv_cache_usage": 0.5, "power_w": 300.5}
    assert triton.counts == {"requests": 10.0, "energy_j": 9000.0}
    assert triton.latencies == {"e2e": once(2.5, 10), "queue": once(1.0, 10)}
    llamacpp = read_page(LLAMACPP)
    assert llamacpp.gauges == {"running": 1.0, "waiting": 2.0}
    assert llamacpp.counts == {"prompt_tokens": 100.0, "output_tokens": 40.0, "steps": 44.0, "prefill_s": 4.0, "decode_s": 2.0}
    assert llamacpp.latencies == {"itl": once(2.0, 40)}


def test_exporters_of_devices_are_summed_or_the_greatest_of_them_counts():
    dcgm = read_page(DCGM)
    assert dcgm.counts == {"energy_j": 6.0}
    assert dcgm.gauges == {"power_w": 500.0, "busy_share": 0.8, "clock_mhz": 1980.0, "memory_used_gb": 1.073741824}
    amd = read_page(AMD)
    assert amd.counts == {"energy_j": 5.0}
    assert amd.gauges == {"power_w": 450.0, "busy_share": 0.5, "memory_used_gb": 1.0}


def test_openmetrics_is_read_without_its_exemplars_stamps_and_times_of_creation():
    page = b"""# TYPE vllm:generation_tokens counter
# UNIT vllm:generation_tokens tokens
vllm:generation_tokens_total{model_name="a"} 7 1700000000.5
vllm:generation_tokens_created{model_name="a"} 1699999999.0
vllm:e2e_request_latency_seconds_bucket{le="1.0"} 2 1700000000.5 # {trace_id="a} 9"} 0.67 1700000000.1
vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 3 # {} 1.5
vllm:e2e_request_latency_seconds_sum 2.5
vllm:e2e_request_latency_seconds_count 3
# EOF
"""
    assert read_page(page).counts == {"output_tokens": 7.0}
    assert read_page(page).latencies == {"e2e": Histogram(upper_s=(1.0,), counts=(2, 3), sum_s=2.5)}
    assert read_page(page.replace(b"\n", b"\r\n")) == read_page(page)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html>vllm:num_requests_running 3</html>",
        b"vllm:num_requests_running",
        b"vllm:num_requests_running NaN\nvllm:num_requests_waiting 1e999",
        b"vllm:num_requests_running --3",
        b"\xff\x00vllm:num_requests_running 3",
        b'vllm:num_requests_running{engine="0',
        b'vllm:num_requests_running{engine="0"} ',
        b"vllm:num_requests_running{,,}=3 4",
        b"vllm:num_requests_running }{ 3",
        b"\xff vllm:time_to_first_token_seconds_bucket",
        b'vllm:e2e_request_latency_seconds_bucket{le="+Inf"} -3\nvllm:e2e_request_latency_seconds_sum 1',
        b'vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 1e300\nvllm:e2e_request_latency_seconds_sum 1',
        b'vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 3\nvllm:e2e_request_latency_seconds_sum -1',
        b'vllm:e2e_request_latency_seconds_bucket{le="1"} 9\nvllm:e2e_request_latency_seconds_bucket{le="+Inf"} 3\n'
        b"vllm:e2e_request_latency_seconds_sum 1",
        b'vllm:e2e_request_latency_seconds_bucket{le="1"} 9\nvllm:e2e_request_latency_seconds_sum 1',
    ],
)
def test_what_is_no_sample_or_no_histogram_is_nothing(page):
    assert not read_page(page)


def test_samples_are_bounded_that_is_said_and_a_bad_line_costs_no_other():
    page = b"vllm:num_requests_running }{ 3\nvllm:num_requests_waiting 2\n" + b'vllm:num_requests_running{a="%d"} 1\n' * 5_000
    told = read_page(page)
    assert told.gauges == {"waiting": 2.0, "running": MAX_SAMPLES - 1.0}
    assert told.cut
    strange = b"".join(b'other_metric_%d{a="b"} %d\n' % (number, number) for number in range(10_000))
    assert read_page(strange + VLLM) == read_page(VLLM)
    assert not read_page(VLLM).cut


def test_every_line_of_the_table_has_a_name_that_a_series_can_have():
    names = [meaning.name for meanings in SAMPLES.values() for meaning in meanings] + [latency.name for latency in LATENCIES]
    assert all(name.isidentifier() and name.islower() and len(name) <= 24 for name in names)
