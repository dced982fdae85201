"""What servers and exporters name on their pages of metrics, in this project's words: the one table of all dialects.

vLLM (docs: Production Metrics), SGLang (docs: Production Metrics), TGI (docs: Metrics), TensorRT-LLM's `trtllm-serve`
(tensorrt_llm/metrics/collector.py), Triton (docs: Metrics) with its TensorRT-LLM backend, llama.cpp (tools/server: `--metrics`); of devices
NVIDIA's DCGM exporter and AMD's device metrics exporter.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

US, MILLI, PERCENT, BYTE, MIB, MB = 1e-6, 1e-3, 1e-2, 1e-9, 1.048576e-3, 1e-3

Sort = Literal["level", "greatest", "count"]
"""Of several label sets a level and a count are summed up; what is a share, a clock or a temperature is the greatest."""


class Meaning(NamedTuple):
    """A sample's name and sort here, its unit in this project's, the value that a label must have, and the label whose number goes behind
    the name."""

    name: str
    sort: Sort
    unit: float = 1.0
    label: tuple[str, str] = ("", "")
    by: str = ""


class Latency(NamedTuple):
    """A histogram, a summary, or without a `family` two counters: of all values, and of how many there were. Seconds times 1/`unit`."""

    name: str
    family: str
    unit: float = 1.0
    all: str = ""
    number: str = ""


SAMPLES: dict[str, list[Meaning]] = {
    "vllm:num_requests_running": [Meaning("running", "level")],
    "vllm:num_requests_waiting": [Meaning("waiting", "level")],
    "vllm:kv_cache_usage_perc": [Meaning("kv_cache_usage", "greatest")],
    "vllm:gpu_cache_usage_perc": [Meaning("kv_cache_usage", "greatest")],
    "vllm:num_preemptions_total": [Meaning("preemptions", "count")],
    "vllm:prefix_cache_queries_total": [Meaning("prefix_queries", "count")],
    "vllm:prefix_cache_hits_total": [Meaning("prefix_hits", "count")],
    "vllm:prompt_tokens_total": [Meaning("prompt_tokens", "count")],
    "vllm:generation_tokens_total": [Meaning("output_tokens", "count")],
    "vllm:request_success_total": [Meaning("requests", "count")],
    "vllm:iteration_tokens_total_sum": [Meaning("step_tokens", "count")],
    "vllm:iteration_tokens_total_count": [Meaning("steps", "count")],
    "vllm:spec_decode_num_drafts_total": [Meaning("drafts", "count")],
    "vllm:spec_decode_num_draft_tokens_total": [Meaning("draft_tokens", "count")],
    "vllm:spec_decode_num_accepted_tokens_total": [Meaning("accepted_tokens", "count")],
    "vllm:spec_decode_num_accepted_tokens_per_pos_total": [Meaning("accepted_tokens_at", "count", by="position")],
    "sglang:num_running_reqs": [Meaning("running", "level")],
    "sglang:num_queue_reqs": [Meaning("waiting", "level")],
    "sglang:token_usage": [Meaning("kv_cache_usage", "greatest")],
    "sglang:cache_hit_rate": [Meaning("prefix_cache_hit_rate", "greatest")],
    "sglang:num_retracted_requests_total": [Meaning("preemptions", "count")],
    "sglang:prompt_tokens_total": [Meaning("prompt_tokens", "count"), Meaning("prefix_queries", "count")],
    "sglang:cached_tokens_total": [Meaning("prefix_hits", "count")],
    "sglang:generation_tokens_total": [Meaning("output_tokens", "count")],
    "sglang:num_requests_total": [Meaning("requests", "count")],
    "sglang:spec_accept_length": [Meaning("acceptance_length", "greatest")],
    "sglang:spec_accept_rate": [Meaning("acceptance_rate", "greatest")],
    "tgi_batch_current_size": [Meaning("running", "level")],
    "tgi_queue_size": [Meaning("waiting", "level")],
    "tgi_request_success": [Meaning("requests", "count")],
    "tgi_request_input_length_sum": [Meaning("prompt_tokens", "count")],
    "tgi_request_generated_tokens_sum": [Meaning("output_tokens", "count")],
    "tgi_request_skipped_tokens_sum": [Meaning("accepted_tokens", "count")],
    "trtllm_num_requests_running": [Meaning("running", "level")],
    "trtllm_num_requests_waiting": [Meaning("waiting", "level")],
    "trtllm_kv_cache_utilization": [Meaning("kv_cache_usage", "greatest")],
    "trtllm_kv_cache_hit_rate": [Meaning("prefix_cache_hit_rate", "greatest")],
    "trtllm_request_success_total": [Meaning("requests", "count")],
    "trtllm_prompt_tokens_total": [Meaning("prompt_tokens", "count"), Meaning("prefix_queries", "count")],
    "trtllm_prompt_cached_tokens_total": [Meaning("prefix_hits", "count")],
    "trtllm_generation_tokens_total": [Meaning("output_tokens", "count")],
    "trtllm_iteration_latency_seconds": [Meaning("step_s", "greatest")],
    "trtllm_spec_decode_drafted_tokens_total": [Meaning("draft_tokens", "count")],
    "trtllm_spec_decode_accepted_tokens_total": [Meaning("accepted_tokens", "count")],
    "trtllm_spec_decode_acceptance_length": [Meaning("acceptance_length", "greatest")],
    "nv_trt_llm_request_metrics": [
        Meaning("running", "level", label=("request_type", "scheduled")),
        Meaning("waiting", "level", label=("request_type", "waiting")),
    ],
    "nv_trt_llm_kv_cache_block_metrics": [Meaning("kv_cache_usage", "greatest", label=("kv_cache_block_type", "fraction"))],
    "nv_inference_pending_request_count": [Meaning("waiting_in_triton", "level")],
    "nv_inference_request_success": [Meaning("requests", "count")],
    "nv_inference_exec_count": [Meaning("steps", "count")],
    "llamacpp:requests_processing": [Meaning("running", "level")],
    "llamacpp:requests_deferred": [Meaning("waiting", "level")],
    "llamacpp:kv_cache_usage_ratio": [Meaning("kv_cache_usage", "greatest")],
    "llamacpp:prompt_tokens_total": [Meaning("prompt_tokens", "count")],
    "llamacpp:tokens_predicted_total": [Meaning("output_tokens", "count")],
    "llamacpp:n_decode_total": [Meaning("steps", "count")],
    "llamacpp:prompt_seconds_total": [Meaning("prefill_s", "count")],
    "llamacpp:tokens_predicted_seconds_total": [Meaning("decode_s", "count")],
    "nv_gpu_power_usage": [Meaning("power_w", "level")],
    "nv_gpu_utilization": [Meaning("busy_share", "greatest")],
    "nv_gpu_memory_used_bytes": [Meaning("memory_used_gb", "level", BYTE)],
    "nv_energy_consumption": [Meaning("energy_j", "count")],
    "DCGM_FI_DEV_POWER_USAGE": [Meaning("power_w", "level")],
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": [Meaning("energy_j", "count", MILLI)],
    "DCGM_FI_DEV_GPU_UTIL": [Meaning("busy_share", "greatest", PERCENT)],
    "DCGM_FI_DEV_SM_CLOCK": [Meaning("clock_mhz", "greatest")],
    "DCGM_FI_DEV_FB_USED": [Meaning("memory_used_gb", "level", MIB)],
    "DCGM_FI_DEV_GPU_TEMP": [Meaning("temperature_c", "greatest")],
    "amd_gpu_average_package_power": [Meaning("power_w", "level")],
    "amd_gpu_energy_consumed": [Meaning("energy_j", "count", US)],
    "amd_gpu_gfx_activity": [Meaning("busy_share", "greatest", PERCENT)],
    "amd_gpu_used_vram": [Meaning("memory_used_gb", "level", MB)],
    "amd_gpu_junction_temperature": [Meaning("temperature_c", "greatest")],
}

LATENCIES = [
    Latency("ttft", "vllm:time_to_first_token_seconds"),
    Latency("queue", "vllm:request_queue_time_seconds"),
    Latency("prefill", "vllm:request_prefill_time_seconds"),
    Latency("decode", "vllm:request_decode_time_seconds"),
    Latency("itl", "vllm:inter_token_latency_seconds"),
    Latency("itl", "vllm:time_per_output_token_seconds"),
    Latency("e2e", "vllm:e2e_request_latency_seconds"),
    Latency("ttft", "sglang:time_to_first_token_seconds"),
    Latency("queue", "sglang:queue_time_seconds"),
    Latency("itl", "sglang:inter_token_latency_seconds"),
    Latency("e2e", "sglang:e2e_request_latency_seconds"),
    Latency("queue", "tgi_request_queue_duration"),
    Latency("tpot", "tgi_request_mean_time_per_token_duration"),
    Latency("e2e", "tgi_request_duration"),
    Latency("step", "tgi_batch_forward_duration"),
    Latency("ttft", "trtllm_time_to_first_token_seconds"),
    Latency("tpot", "trtllm_time_per_output_token_seconds"),
    Latency("queue", "trtllm_request_queue_time_seconds"),
    Latency("prefill", "trtllm_request_prefill_time_seconds"),
    Latency("decode", "trtllm_request_decode_time_seconds"),
    Latency("e2e", "trtllm_e2e_request_latency_seconds"),
    Latency("e2e", "", US, all="nv_inference_request_duration_us", number="nv_inference_request_success"),
    Latency("queue", "", US, all="nv_inference_queue_duration_us", number="nv_inference_request_success"),
    Latency("itl", "", all="llamacpp:tokens_predicted_seconds_total", number="llamacpp:tokens_predicted_total"),
]

BEGUN = "process_start_time_seconds"
"""When a server was started, by its own clock: only whether it changes counts."""
COUNTS = frozenset(meaning.name for meanings in SAMPLES.values() for meaning in meanings if meaning.sort == "count")
