"""The live metrics equal what the records say, bucket by bucket."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bytemlperf.export.prometheus import IN_BUCKETS
from bytemlperf_llm.live.metrics import FAMILIES, LlmMetrics
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import SloMs
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


def estimate(bounds: tuple[float, ...], values: list[float], quantile: float) -> float:
    """`histogram_quantile` as Prometheus computes it: the bucket of the rank, and linearly between its bounds."""
    rank, below, low = quantile * len(values), 0, 0.0
    for bound in bounds:
        inside = sum(low < value <= bound for value in values)
        if below + inside >= rank:
            return low + (bound - low) * (rank - below) / inside
        below, low = below + inside, bound
    return low


@pytest.mark.parametrize(("family", "first_s", "last_s"), [("time_per_output_token", 0.001, 1), ("time_to_first_token", 0.001, 10)])
def test_quantiles_from_buckets_are_within_ten_per_cent(family: str, first_s: float, last_s: float):
    bounds = next(each.buckets for each in FAMILIES if each.name == f"bmp_{family}_seconds")
    rng = random.Random(1)
    for step in range(300):
        exact = first_s * (last_s / first_s) ** (step / 299)
        for values in ([exact], [exact * rng.uniform(0.7, 1.3) for _ in range(100)] + [exact]):
            for quantile in (0.5, 0.9, 0.95, 0.99):
                true = sorted(values)[math.ceil(quantile * len(values)) - 1]
                if first_s < true < last_s:
                    assert estimate(bounds, values, quantile) == pytest.approx(true, rel=0.1)


def test_the_run_is_named_and_good_requests_are_counted():
    metrics = LlmMetrics()
    metrics.targets = {None: SloMs(ttft=50, tpot=20)}
    for first_ms in (10, 60):
        metrics.started()
        stamps = [first_ms * MS, (first_ms + 15) * MS]
        ok = {"chunk_ns": stamps, "tokens_per_chunk": [1, 1], "end_ns": stamps[-1], "outcome": "ok", "output_tokens": 2}
        metrics.ended(RequestRecord(id="r", index=0, planned_ns=0, sent_ns=0, **ok))
    metrics.exporter.name_run("20300101-llm", {"kind": "llm", "label": "chat", "engine": {"name": "openai", "model": "m"}})
    assert scrape(metrics)["bmp_request_goodput_total"][""] == 1
    text = metrics.exporter.text().decode()
    assert 'bmp_run_info{engine="openai",kind="llm",label="chat",model="m",run="20300101-llm"} 1.0' in text


def test_a_class_that_no_request_failed_with_has_no_series():
    text = LlmMetrics().exporter.text().decode()
    assert re.findall("^bmp_request_failure_total.*", text, re.MULTILINE) == ['bmp_request_failure_total{error_class="other"} 0.0']
