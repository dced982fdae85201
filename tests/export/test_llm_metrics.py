"""The live metrics equal what the records say, bucket by bucket."""

from __future__ import annotations

import random

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from bytemlperf.export.prometheus import IN_BUCKETS
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.record.record import RequestRecord

MS = 1_000_000


def make(index: int, rng: random.Random) -> RequestRecord:
    chunks = rng.randrange(1, 30)
    span = rng.choice((3_000 * MS, 3 * MS))  # tokens apart, and in bursts
    stamps = sorted(rng.randrange(index * 100 * MS, index * 100 * MS + span) for _ in range(chunks))
    counts = [rng.choice((1, 1, 1, 2, 40)) for _ in range(chunks)]
    counts[0] = rng.choice((0, 1)) if chunks > 1 else 1
    return RequestRecord(
        id=f"r{index}", index=index, planned_ns=index * 90 * MS, sent_ns=index * 95 * MS, chunk_ns=stamps, tokens_per_chunk=counts,
        end_ns=stamps[-1], outcome="ok", output_tokens=sum(counts), prompt_tokens=7,
    )  # fmt: skip


def scrape(metrics: LlmMetrics) -> dict[str, dict[str, float]]:
    metrics.flush()
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(metrics.exporter.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels.get("le") or sample.labels.get("error_class") or ""] = sample.value
    return found


def test_live_buckets_hold_the_very_values_that_the_summary_has():
    rng = random.Random(5)
    records = [make(index, rng) for index in range(700)]
    metrics = LlmMetrics()
    for record in records:
        metrics.started()
        metrics.ended(record)
    seen = scrape(metrics)
    summed = Accumulator().add_all(records)
    gaps = [gap / 1e9 for gap in np.repeat(*summed.itl.runs(0, len(summed.itl.rows))).tolist()]
    ttft = [value / 1e9 for value in summed.request_values("ttft", summed.rows("ok")).tolist()]
    for name, values in (("bmp_inter_token_latency_seconds", gaps), ("bmp_time_to_first_token_seconds", ttft)):
        assert seen[f"{name}_count"][""] == len(values)
        assert abs(seen[f"{name}_sum"][""] - sum(values)) < 1e-6
        for bound, count in seen[f"{name}_bucket"].items():
            assert count == sum(value <= float(bound) for value in values), (name, bound)
    assert seen["bmp_request_success_total"][""] == 700
    assert seen["bmp_prompt_tokens_total"][""] == 4900
    assert seen["bmp_generation_tokens_total"][""] == sum(record.output_tokens for record in records)
    assert seen["bmp_requests_in_flight"][""] == 0


def test_failures_are_counted_by_class_and_nothing_else_becomes_a_label():
    metrics = LlmMetrics()
    for error_class in ("tls", "tls", "http_5xx"):
        metrics.started()
        metrics.ended(
            RequestRecord(id="x", index=0, planned_ns=0, end_ns=1, outcome="failed", error_class=error_class, error_detail="http://secret")
        )
    metrics.exporter.count("bmp_request_failure_total", label="http://secret")
    seen = scrape(metrics)["bmp_request_failure_total"]
    assert (seen["tls"], seen["http_5xx"], seen["other"]) == (2, 1, 1)
    assert "secret" not in metrics.exporter.text().decode()


def test_histograms_say_that_they_are_buckets():
    families = list(text_string_to_metric_families(LlmMetrics().exporter.text().decode()))
    histograms = [family for family in families if family.type == "histogram"]
    assert len(histograms) >= 5
    assert all(family.documentation.endswith(IN_BUCKETS) for family in histograms)
    assert not any(IN_BUCKETS in family.documentation for family in families if family.type != "histogram")
