"""What goes over the wire: remote write against protobuf and snappy, OTLP's data model, spans, addresses."""

from __future__ import annotations

import math
import struct

import pytest

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.export.llm_metrics import FAMILIES
from bytemlperf_llm.export.prometheus import Exporter
from bytemlperf_llm.push import otlp, remote_write
from bytemlperf_llm.push.labels import labels_of
from bytemlperf_llm.push.source import Unreachable, checked_url, families, shown
from bytemlperf_llm.runs.record import RequestRecord
from tests.metrics.records import MS, answered, failed

SAMPLES = [("bmp_x", {"le": "+Inf", "a": "b"}, 1.5), ("bmp_y", {}, -math.inf)]


def unsnappy(data: bytes) -> bytes:
    """A block decoder that knows literals with a two-byte length alone."""
    size, shift, at = 0, 0, 0
    while True:
        byte = data[at]
        size |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            break
    out = b""
    while at < len(data):
        assert data[at] == 0xF4
        (length,) = struct.unpack_from("<H", data, at + 1)
        out += data[at + 3 : at + 4 + length]
        at += 4 + length
    assert len(out) == size
    return out


@pytest.mark.parametrize("size", [0, 1, 127, 128, 65_536, 65_537, 200_000])
def test_snappy_literals_are_the_bytes(size: int):
    data = bytes(index * 7 % 251 for index in range(size))
    assert unsnappy(remote_write.snappy_literals(data)) == data


def test_labels_are_sorted_and_an_empty_one_is_left_out():
    body = unsnappy(remote_write.encode([("z", {"b": "2", "a": "1", "empty": ""}, 0.0)], 1))
    assert body.index(b"__name__") < body.index(b"\x01a") < body.index(b"\x01b")
    assert b"empty" not in body


def filled() -> Exporter:
    exporter = Exporter(FAMILIES)
    exporter.observe("bmp_time_to_first_token_seconds", [0.0005, 0.03, 0.03, 500.0])
    exporter.count("bmp_request_success_total", 3)
    exporter.count("bmp_request_failure_total", 1, "idle_timeout")
    exporter.set("bmp_requests_in_flight", 2)
    return exporter


def metrics_of(exporter: Exporter) -> dict:
    data = otlp.metrics_data(families(exporter.text()), {"run": "a"}, 10, 20)
    (resource,) = data.resource_metrics
    assert resource.resource.attributes["run"] == "a"
    return {metric.name: metric for metric in resource.scope_metrics[0].metrics}


def test_client_latencies_take_the_conventions_names_and_units():
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics as names

    found = metrics_of(filled())
    assert set(otlp.GENAI_NAMES.values()) <= set(found)
    assert set(otlp.GENAI_NAMES.values()) == {
        names.GEN_AI_CLIENT_OPERATION_DURATION,
        names.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
        names.GEN_AI_CLIENT_OPERATION_TIME_PER_OUTPUT_CHUNK,
    }
    assert all(found[name].unit == "s" for name in otlp.GENAI_NAMES.values())
    assert set(otlp.GENAI_NAMES) <= {family.name for family in FAMILIES}


def test_buckets_are_what_was_observed():
    (point,) = metrics_of(filled())["gen_ai.client.operation.time_to_first_chunk"].data.data_points
    assert (point.count, point.sum) == (4, pytest.approx(500.0605))
    assert sum(point.bucket_counts) == 4
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert point.bucket_counts[0] == 1
    assert point.bucket_counts[point.explicit_bounds.index(0.04)] == 2
    assert point.bucket_counts[-1] == 1
    assert (point.start_time_unix_nano, point.time_unix_nano) == (10, 20)


def test_counters_are_sums_and_gauges_are_gauges():
    found = metrics_of(filled())
    failures = {point.attributes["error_class"]: point.value for point in found["bmp.request_failure"].data.data_points}
    assert failures["idle_timeout"] == 1
    assert found["bmp.request_failure"].data.is_monotonic
    (level,) = found["bmp.requests_in_flight"].data.data_points
    assert level.value == 2
    assert not hasattr(found["bmp.requests_in_flight"].data, "is_monotonic")


def test_not_a_number_is_left_out():
    exporter = filled()
    exporter.set("bmp_requests_in_flight", math.nan)
    assert "bmp.requests_in_flight" not in metrics_of(exporter)


RUN = {"started_at": "2026-11-24T12:00:00.000+00:00", "label": "x", "engine": {"name": "vllm", "model": "tiny"}}


def attributes(record: RequestRecord) -> dict:
    return dict(otlp.span_attributes(RUN, record))


def test_spans_have_the_conventions_attributes_and_no_text():
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names

    record = answered(3, 10, 11, [20, 30], prompt_tokens=7, output="the answer")
    found = attributes(record)
    known = {value for value in vars(names).values() if isinstance(value, str)}
    assert {name for name in found if name.startswith("gen_ai.")} <= known
    assert found["gen_ai.request.model"] == "tiny"
    assert found["gen_ai.usage.input_tokens"] == 7
    assert found["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.009)
    assert found["bmp.schedule_lateness_s"] == pytest.approx(0.001)
    assert "the answer" not in str(found)
    assert attributes(failed(1, 0, 5, error_class="idle_timeout"))["error.type"] == "idle_timeout"


def test_a_run_without_a_start_has_no_traces():
    assert otlp.origin_unix_ns(RUN) == 1_795_521_600 * 10**9
    with pytest.raises(UserError, match="started"):
        otlp.origin_unix_ns({})
    assert MS == 10**6


def test_addresses():
    assert otlp.signal_url("http://h:4318", "metrics") == "http://h:4318/v1/metrics"
    assert otlp.signal_url("http://h:4318/v1/traces", "traces") == "http://h:4318/v1/traces"
    for text in ("file:///etc/passwd", "h:9091", "ftp://h", "http://"):
        with pytest.raises(UserError, match="no http or https"):
            checked_url(text, "--pushgateway")
    with pytest.raises(UserError, match="holds credentials") as error:
        checked_url("http://me:secret@h", "--pushgateway")
    assert "secret" not in str(error.value)
    assert shown("http://me:secret@h:1/x?key=secret") == "http://h:1/x"


def test_labels():
    assert labels_of([], "http://127.0.0.1:9400/metrics") == {"run": "127.0.0.1:9400"}
    assert labels_of(["run=a/b c"], "http://h") == {"run": "a/b c"}
    for text in ("run", "=x", "run=", "le=1", "job=x", "1a=b", "__name__=x"):
        with pytest.raises(UserError, match="NAME=VALUE"):
            labels_of([text], "http://h")


def test_what_is_no_metrics_page_is_said():
    with pytest.raises(Unreachable, match="no metrics page"):
        families(b"<html>hello</html>")
    with pytest.raises(Unreachable):
        families(b"\xff\xfe")
