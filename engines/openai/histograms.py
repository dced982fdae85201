"""A server's own histograms of latency on `/metrics`, under this project's names: those of vLLM, SGLang and TGI."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import suppress

from engines.contract import Histogram
from engines.openai.gauges import samples_of

NAMES = {
    "vllm:time_to_first_token_seconds": "ttft",
    "vllm:request_queue_time_seconds": "queue",
    "vllm:request_prefill_time_seconds": "prefill",
    "vllm:request_decode_time_seconds": "decode",
    "vllm:inter_token_latency_seconds": "itl",
    "vllm:time_per_output_token_seconds": "itl",
    "vllm:e2e_request_latency_seconds": "e2e",
    "sglang:time_to_first_token_seconds": "ttft",
    "sglang:queue_time_seconds": "queue",
    "sglang:inter_token_latency_seconds": "itl",
    "sglang:e2e_request_latency_seconds": "e2e",
    "tgi_request_queue_duration": "queue",
    "tgi_request_mean_time_per_token_duration": "itl",
    "tgi_request_duration": "e2e",
}
MAX_LINES = 4_000
"""Of a page: enough for these histograms of a hundred engines behind it."""

_STARTS = tuple(name.encode() for name in NAMES)


def histograms_of(page: bytes) -> dict[str, Histogram]:
    """Those that a page in Prometheus' text format has, summed over their label sets, whose buckets are the same."""
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    sums: dict[str, float] = defaultdict(float)
    for sample in samples_of(page, _STARTS, MAX_LINES):
        name, _, part = sample.name.rpartition("_")
        if name in NAMES and part == "bucket":
            with suppress(ValueError, KeyError):  # a bucket without a bound
                buckets[name][float(sample.labels["le"])] += sample.value
        elif name in NAMES and part == "sum":
            sums[name] += sample.value
    return {
        NAMES[name]: Histogram(
            upper_s=tuple(sorted(counts.keys() - {math.inf})), counts=tuple(round(counts[le]) for le in sorted(counts)), sum_s=sums[name]
        )
        for name, counts in buckets.items()
        if math.inf in counts and name in sums
    }
