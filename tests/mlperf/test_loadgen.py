"""MLPerf's scenarios: LoadGen's verdict on runs whose figures are known, and real short runs of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bytemlperf.errors import UserError
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.cli import app
from bytemlperf_llm.metrics.facts import SloMs
from bytemlperf_llm.mlperf.loadgen import LoadGenResult, loadgen_result
from bytemlperf_llm.mlperf.samples import samples_of
from bytemlperf_llm.plan.scenario import load
from bytemlperf_llm.record.record import RequestRecord
from tests.metrics.records import answered, failed

LIMITS = SloMs(ttft=100, tpot=20)


def result_of(name: str, records: list[RequestRecord], slo_ms: SloMs = LIMITS, scheduled: int | None = None) -> LoadGenResult:
    return loadgen_result(load(name), samples_of(records), scheduled or len(records), slo_ms)


def served(count: int, seconds: float, slow: int = 0) -> list[RequestRecord]:
    """Evenly due, TTFT 50 ms and TPOT 10 ms; of `slow` of them, evenly among the others, 200 ms and 10 ms."""
    due = [index * 1000 * seconds / (count - 1) for index in range(count)]
    late = {index * (count // slow) for index in range(slow)} if slow else set()
    first = [at + (200 if index in late else 50) for index, at in enumerate(due)]
    return [answered(index, due[index], due[index], [first[index] + 10 * place for place in range(5)]) for index in range(count)]


def streamed(queries: int, together: int, seconds: float) -> Iterator[RequestRecord]:
    """Queries one after another: all samples of query q take 100 + q % 100 ms, and one of each half as long."""
    for query in range(queries):
        sent, took = query * 1000 * seconds / (queries - 1), 100 + query % 100
        for place in range(together):
            end = sent + (took / 2 if place == 0 and together > 1 else took)
            yield answered(query * together + place, None, sent, [end - 10, end])


def test_a_server_run_is_valid_where_its_tails_are_certified() -> None:
    found = result_of("mlperf-server", served(1000, 600))
    assert (found.result, found.reasons, found.queries) == ("VALID", [], 1000)
    done_s = 600 + 0.09
    assert found.figures == {"samples/s": pytest.approx(999 / done_s), "tokens/s": pytest.approx(5000 / done_s)}


@pytest.mark.parametrize(
    ("count", "slow", "reason"),
    [
        (459, 0, None),
        (458, 0, "ttft above 100 ms: 0 of 458 samples, insufficient to tell at 99 %"),
        (662, 1, None),
        (661, 1, "ttft above 100 ms: 1 of 661 samples, insufficient to tell at 99 %"),
        (1000, 20, "ttft above 100 ms: 20 of 1000 samples, so the 99th percentile is beyond it"),
    ],
)
def test_a_server_run_needs_as_many_samples_as_early_stopping_says(count: int, slow: int, reason: str | None) -> None:
    found = result_of("mlperf-server", served(count, 601, slow))
    assert found.result == ("VALID" if reason is None else "INVALID")
    assert reason is None or any(text.startswith(reason) for text in found.reasons)


def test_a_server_run_without_service_levels_or_with_a_failure_is_none() -> None:
    records = [*served(1000, 600), failed(1000, 601_000, 601_010)]
    reasons = result_of("mlperf-server", records, SloMs()).reasons
    assert reasons[0].startswith("no service level: a Server run needs --goodput")
    assert reasons[1] == "1 of 1001 samples had no response: LoadGen counts every one"


def test_single_and_multi_stream_report_the_estimate_of_their_percentile() -> None:
    single = result_of("mlperf-single-stream", list(streamed(1000, 1, 601)))
    assert single.result == "VALID"
    estimate, plain = single.figures.values()
    assert plain == pytest.approx(190)
    assert estimate == pytest.approx(192)  # the 77th highest of 1000, ten of each
    multi = result_of("mlperf-multi-stream", list(streamed(662, 8, 601)))
    assert (multi.result, multi.queries) == ("VALID", 662)
    assert next(iter(multi.figures.values())) == pytest.approx(199)  # at 662 queries the highest of all
    few = result_of("mlperf-multi-stream", list(streamed(661, 8, 601)))
    assert few.reasons == [
        "661 queries, 662 are needed for an estimate of p99: run longer",
        "661 queries, 662 are the least: give --duration 660 or more",
    ]


def test_offline_counts_from_the_start_to_the_last_answer() -> None:
    records = [answered(index, 0, index, [1000, 610_000]) for index in range(30_000)]
    found = result_of("mlperf-offline", records)
    assert (found.result, found.queries) == ("VALID", 30_000)
    assert found.figures == {"samples/s": pytest.approx(30_000 / 610), "tokens/s": pytest.approx(60_000 / 610)}
    short = result_of("mlperf-offline", [answered(0, 0, 0, [10, 2000])])
    assert short.reasons == [
        "2.0 s long, 600 s is the least: give more with --num-prompts",
        "1 samples, 24576 are the least: give more with --num-prompts",
    ]


SERVICE = ("--engine", "reference", "--engine-option", "ttft_ms=1", "--engine-option", "itl_ms=0.2", "--output-len", "4", "--no-report")


@pytest.mark.parametrize(
    ("name", "flags", "queries"),
    [
        ("server", ("--request-rate", "200", "--num-prompts", "40"), 40),
        ("offline", ("--num-prompts", "50"), 50),
        ("single-stream", ("--num-prompts", "20"), 20),
        ("multi-stream", ("--num-prompts", "80"), 10),
    ],
)
def test_a_short_run_of_each_is_labelled_and_says_what_is_missing(tmp_path: Path, name: str, flags: tuple[str, ...], queries: int) -> None:
    command = ["serve-bench", *SERVICE, "--scenario", f"mlperf-{name}", "--num-warmups", "0", *flags, "--runs-dir", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    folder = Path(result.stdout.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())["mlperf"]
    assert (found["result"], found["queries"]) == ("INVALID", queries)
    assert any("600 s is the least" in reason for reason in found["reasons"])
    assert "not a result of MLPerf" in result.stdout
    assert verify_suite(folder).findings == []
    if name == "multi-stream":
        records = sorted((json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()), key=lambda each: each["index"])
        groups = [records[start : start + 8] for start in range(0, 80, 8)]
        ends = [max(each["end_ns"] for each in group) for group in groups]
        assert all(min(each["sent_ns"] for each in after) >= end for after, end in zip(groups[1:], ends, strict=False))


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (("--scenario", "mlperf-single-stream", "--request-rate", "4"), "mlperf: single_stream is process closed, not poisson"),
        (("--scenario", "mlperf-single-stream", "--max-concurrency", "2"), "sends one request after another"),
        (("--scenario", "mlperf-multi-stream", "--workers", "2"), "sent by one worker"),
    ],
)
def test_what_contradicts_a_scenario_is_refused(tmp_path: Path, flags: tuple[str, ...], cause: str) -> None:
    result = CliRunner().invoke(app, ["serve-bench", *SERVICE, *flags, "--runs-dir", str(tmp_path)])
    assert isinstance(result.exception, UserError)
    assert cause in str(result.exception)
