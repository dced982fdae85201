"""The vLLM-compatible file: its keys, and its figures against vLLM's formulas done with numpy."""

from __future__ import annotations

import json
import random

import pytest

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.export.vllm_json import VllmSetup, linear_percentile, vllm_result, write_vllm_json
from bytemlperf_llm.metrics.facts import RunFacts, SloMs
from tests.metrics.records import answered, failed, poisson_run

SETUP = VllmSetup(date="20260801-120000", backend="vllm", model_id="smollm2", tokenizer_id="smollm2")
FACTS = RunFacts(open_loop=True, requested_rate=10.0, process="poisson")

SETUP_KEYS = ["date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts"]
TRAFFIC_KEYS = ["request_rate", "burstiness", "max_concurrency"]
COUNT_KEYS = ["duration", "completed", "failed", "total_input_tokens", "total_output_tokens"]
RATE_KEYS = ["request_throughput", "request_goodput", "output_throughput", "total_token_throughput"]
PEAK_KEYS = ["max_output_tokens_per_s", "max_concurrent_requests"]
KEYS = {*SETUP_KEYS, *TRAFFIC_KEYS, *COUNT_KEYS, *RATE_KEYS, *PEAK_KEYS}
DETAILED_KEYS = {"input_lens", "output_lens", "start_times", "ttfts", "itls", "generated_texts", "errors"}


def statistic_keys(*words):
    return [f"{kind}_{name}_ms" for name in ("ttft", "tpot", "itl", "e2el") for kind in ("mean", "median", "std", *words)]


def test_keys_are_exactly_vllms():
    records = poisson_run(20, 10)
    assert set(vllm_result(records, FACTS, SETUP)) == {*KEYS, *statistic_keys("p99")}
    detailed = vllm_result(records, FACTS, SETUP, percentiles=("50", "99.9"), detailed=True)
    assert set(detailed) == {*KEYS, *DETAILED_KEYS, *statistic_keys("p50", "p99.9")}


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101, 1000])
def test_linear_percentiles_are_numpys_bit_for_bit(count):
    numpy = pytest.importorskip("numpy")
    values = sorted(random.Random(count).random() for _ in range(count))
    for percent in (0, 1, 25, 50, 90, 95, 99, 99.9, 100):
        assert linear_percentile(values, percent) == float(numpy.percentile(values, percent))
    assert linear_percentile([], 99) == 0.0


def test_figures_follow_vllms_formulas():
    numpy = pytest.importorskip("numpy")
    records = [*poisson_run(50, 10, tokens=6), failed(50, 4000, 4100)]
    result = vllm_result(records, FACTS, SETUP, detailed=True)
    ttfts = [(record.chunk_ns[0] - record.sent_ns) / 1e9 for record in records[:50]]
    latencies = [(record.chunk_ns[-1] - record.sent_ns) / 1e9 for record in records[:50]]
    tpots = [(latency - ttft) / 5 for latency, ttft in zip(latencies, ttfts, strict=True)]
    itls = [gap for list_of in result["itls"] for gap in list_of]
    assert result["ttfts"] == [*ttfts, 0.0]
    for name, values in {"ttft": ttfts, "e2el": latencies, "tpot": tpots, "itl": itls}.items():
        expected = (numpy.mean(values), numpy.median(values), numpy.std(values), numpy.percentile(values, 99))
        found = [result[f"{kind}_{name}_ms"] for kind in ("mean", "median", "std", "p99")]
        assert found == pytest.approx([float(value) * 1000 for value in expected], rel=1e-9)
    assert (result["completed"], result["failed"], result["num_prompts"]) == (50, 1, 51)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (500, 300)
    assert result["duration"] == max(record.end_ns for record in records) / 1e9
    assert result["output_throughput"] == pytest.approx(300 / result["duration"])
    assert result["total_token_throughput"] == pytest.approx(800 / result["duration"])
    assert result["request_goodput"] is None
    assert result["errors"] == [*[""] * 50, "HTTP 500\nsecond line"]
    assert result["output_lens"][-1] == 0


def test_itl_is_the_chunk_gap_and_latency_runs_from_sent():
    record = answered(0, 0, 1000, [1100, 1300, 1400], tokens_per_chunk=[1, 4, 0], output="hi")
    result = vllm_result([record], FACTS, SETUP, detailed=True)
    assert result["itls"] == [[0.2]]
    assert result["ttfts"] == [pytest.approx(0.1)]
    assert result["mean_e2el_ms"] == pytest.approx(300)
    assert result["start_times"] == [1.0]
    assert result["generated_texts"] == ["hi"]


def test_peaks_count_chunks_and_requests_by_whole_seconds():
    records = [answered(0, 0, 0, [100, 200, 1500]), answered(1, 900, 900, [950, 1100])]
    result = vllm_result(records, FACTS, SETUP)
    assert (result["max_output_tokens_per_s"], result["max_concurrent_requests"]) == (3.0, 2)


def test_goodput_has_vllms_targets():
    records = [answered(0, 0, 0, [50, 60]), answered(1, 0, 0, [150, 160]), answered(2, 0, 0, [90]), failed(3, 0, 1000)]
    facts = RunFacts(open_loop=True, requested_rate=10.0, slo_ms=SloMs(ttft=100, tpot=11))
    assert vllm_result(records, facts, SETUP)["request_goodput"] == pytest.approx(2.0)


def test_no_rate_is_inf_and_no_answer_is_zero():
    result = vllm_result([failed(0, 0, 0)], RunFacts(open_loop=False, max_concurrency=4), SETUP)
    assert (result["request_rate"], result["max_concurrency"]) == ("inf", 4)
    assert (result["completed"], result["duration"], result["mean_ttft_ms"], result["p99_itl_ms"]) == (0, 0.0, 0.0, 0.0)
    assert vllm_result([], FACTS, SETUP)["num_prompts"] == 0


def test_metadata_becomes_keys(tmp_path):
    setup = VllmSetup(date="d", backend="vllm", model_id="m", tokenizer_id=None, metadata={"gpu": "none"})
    path = tmp_path / "new" / "result.json"
    write_vllm_json(path, vllm_result(poisson_run(3, 10), FACTS, setup))
    content = json.loads(path.read_text())
    assert (content["gpu"], content["tokenizer_id"], content["completed"]) == ("none", None, 3)


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write"):
        write_vllm_json(tmp_path / "file" / "result.json", {})
