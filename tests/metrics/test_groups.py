"""Figures of classes and endpoints, on records whose truth is known."""

from __future__ import annotations

import random

import pytest

from bytemlperf_llm.metrics.facts import ClassFacts, RunFacts, SloMs
from bytemlperf_llm.metrics.groups import jain_index
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.record.record import RequestRecord
from tests.metrics.records import answered, failed

FAST, SLOW = ({"class_name": name, "endpoint": f"h:{port}"} for name, port in (("fast", 1), ("slow", 2)))
RECORDS = [
    answered(0, 0, 0, [50, 60], cached_tokens=2, **FAST),
    answered(1, 0, 0, [150, 160], cached_tokens=3, **FAST),
    answered(2, 0, 0, [400, 800], **SLOW),
    answered(3, 0, 0, [500, 900], **SLOW),
    answered(4, 0, 0, [500, 1100], **SLOW),
    failed(5, 0, 1000, **SLOW),
]
CLASSES = (
    ClassFacts(name="fast", share=1, slo_ms=SloMs(ttft=100)),
    ClassFacts(name="slow", share=3, slo_ms=SloMs(e2e=1000)),
    ClassFacts(name="none", share=4, slo_ms=SloMs(e2e=1000)),
)
FACTS = RunFacts(open_loop=True, process="poisson", requested_rate=80.0, classes=CLASSES)


def test_each_request_is_judged_by_its_own_class() -> None:
    summary = summarize(RECORDS, FACTS)
    assert (summary.goodput.good_requests, summary.goodput.share, summary.goodput.slo_ms) == (3, 0.5, None)
    fast, slow, none = summary.classes.values()
    assert [(group.requests, group.outcomes["failed"]) for group in (fast, slow, none)] == [(2, 0), (4, 1), (0, 0)]
    assert [(group.share, group.requested_rate) for group in (fast, slow, none)] == [(0.125, 10.0), (0.375, 30.0), (0.5, 40.0)]
    assert (fast.goodput.share, slow.goodput.share, none.goodput.share) == (0.5, 0.5, None)
    assert (fast.metrics["ttft"].mean, slow.metrics["ttft"].count, none.metrics) == (100e6, 3, {})
    assert summary.fairness.jain_index == 1.0


def test_a_class_without_service_levels_is_not_judged() -> None:
    facts = RunFacts(open_loop=True, classes=(CLASSES[0], ClassFacts(name="slow", share=3, slo_ms=SloMs())))
    summary = summarize(RECORDS, facts)
    assert (summary.goodput.good_requests, summary.goodput.share, summary.goodput.slo_ms) == (1, 0.5, SloMs(ttft=100))
    assert (summary.classes["slow"].goodput, summary.fairness) == (None, None)


def test_each_endpoint_has_its_own_figures() -> None:
    one, two = summarize(RECORDS, FACTS).endpoints.values()
    assert (one.requests, two.requests, one.cached_tokens, two.cached_tokens) == (2, 4, 5, None)
    assert [group.goodput.good_requests for group in (one, two)] == [1, 2]
    assert list(summarize([answered(0, 0, 0, [5])], RunFacts(open_loop=True)).endpoints) == []


def test_the_order_of_records_changes_nothing() -> None:
    shuffled = list[RequestRecord](RECORDS)
    random.Random(3).shuffle(shuffled)
    assert summarize(shuffled, FACTS) == summarize(RECORDS, FACTS)


def test_jains_index() -> None:
    assert jain_index([0.7, 0.7, 0.7]) == pytest.approx(1)
    assert jain_index([1, 0, 0, 0]) == 0.25
    assert jain_index([1, 0.5]) == pytest.approx(2.25 / 2.5)
    assert jain_index([0, 0]) is None


def test_the_hand_off_is_the_gap_behind_the_first_token() -> None:
    records = [answered(0, 0, 0, [50, 90, 95]), answered(1, 0, 0, [50, 70, 75, 80]), answered(2, 0, 0, [50])]
    handoff = summarize(records, RunFacts(open_loop=True, roles=("prefill",))).metrics["handoff"]
    assert (handoff.count, handoff.min, handoff.max) == (2, 20e6, 40e6)
    assert "handoff" not in summarize(records, RunFacts(open_loop=True)).metrics
