"""Spans out of messages: the same in both encodings, and nothing out of garbage."""

from __future__ import annotations

import random

import pytest

from bytemlperf_llm.spans.otlp import Span, spans_in
from tests.spans.made import LATENCIES, json_export, protobuf_export

START, END = 1_700_000_000_000_000_000, 1_700_000_000_065_000_000
SPAN = Span(
    7, "llm_request", START, END, {"queue": 10_000_000, "prefill": 20_000_000, "decode": 30_000_000, "ttft": 34_000_000, "e2e": 65_000_000}
)
MAKERS = pytest.mark.parametrize(("make", "is_json"), [(json_export, True), (protobuf_export, False)], ids=["json", "protobuf"])


@MAKERS
def test_a_span_of_vllm_is_read(make, is_json):
    assert spans_in(make(7, START, END, latencies=LATENCIES), is_json=is_json) == [SPAN]


@MAKERS
def test_latencies_that_lie_and_times_that_cant_be_are_left_out(make, is_json):
    lies = {"time_in_queue": -1.0, "time_in_model_prefill": 1e300, "e2e": 86_401.0}
    assert spans_in(make(7, START, END, latencies=lies), is_json=is_json) == [Span(7, "llm_request", START, END, {})]
    assert spans_in(make(7, END, START), is_json=is_json) == []
    assert spans_in(make(7, 0, START), is_json=is_json) == []


@MAKERS
def test_garbage_is_one_error(make, is_json):
    whole, draw = make(7, START, END, latencies=LATENCIES), random.Random(1)
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            spans = spans_in(bytes(damaged[: draw.randint(0, len(damaged))]), is_json=is_json)
        except ValueError:
            continue
        assert all(0 < span.start_ns <= span.end_ns for span in spans)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"[" * 100_000, b'{"resourceSpans": 1}', b"\xff\xfe", b'{"resourceSpans":[{"scopeSpans":null}]}']
)
def test_json_that_is_no_export_is_one_error(body):
    with pytest.raises(ValueError):
        spans_in(body, is_json=True)


def test_not_a_number_is_no_latency_and_a_short_id_is_none():
    (span,) = spans_in(protobuf_export(7, START, END, latencies={"e2e": float("nan")}), is_json=False)
    assert span.latencies_ns == {}
    (unmatched,) = spans_in(json_export(7, START, END).replace(b"0" * 31 + b"7", b"7"), is_json=True)
    assert unmatched.trace_id == 0
