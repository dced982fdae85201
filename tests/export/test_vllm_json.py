"""The vLLM-compatible file: its keys, and its figures against vLLM's formulas done with numpy."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

import pytest

from bytemlperf.arrivals.processes import Ramp
from bytemlperf.errors import UserError
from bytemlperf_llm.export.vllm_json import VllmSetup, vllm_result, write_vllm_json
from bytemlperf_llm.metrics.facts import RunFacts, SloMs
from tests.metrics.records import answered, failed, poisson_run

SETUP = VllmSetup(date="20260801-120000", backend="vllm", model_id="smollm2", tokenizer_id="smollm2")
FACTS = RunFacts(open_loop=True, requested_rate=10.0, process="poisson")

SETUP_KEYS = ["date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts"]
TRAFFIC_KEYS = ["request_rate", "burstiness", "max_concurrency"]
RESULT_KEYS = [
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "generated_texts",
    "errors",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "rtfx",
]
DETAILED = ["input_lens", "output_lens", "start_times", "ttfts", "itls", "generated_texts", "errors"]


def statistic_keys(*percentiles, names=("ttft", "tpot", "itl", "e2el")):
    return [f"{kind}_{name}_ms" for name in names for kind in ("mean", "median", "std", *percentiles)]


def test_keys_are_vllms_in_its_order():
    records = poisson_run(20, 10)
    detailed = vllm_result(records, FACTS, SETUP, percentiles=("50", "99.9"), detailed=True)
    assert list(detailed) == [*SETUP_KEYS, *TRAFFIC_KEYS, *RESULT_KEYS, *statistic_keys("p50", "p99.9")]
    plain = [key for key in RESULT_KEYS if key not in DETAILED]
    assert list(vllm_result(records, FACTS, SETUP)) == [*SETUP_KEYS, *TRAFFIC_KEYS, *plain, *statistic_keys("p99")]


def test_those_keys_are_what_vllms_own_module_writes():
    """Its source is read, not run: the literal of the results, and what is stored in them and in the file."""
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        pytest.skip("vLLM is not installed")
    tree = ast.parse((Path(package.origin).parent / "benchmarks" / "serve.py").read_text())
    results = [node for node in ast.walk(tree) if isinstance(node, ast.Dict) and "rtfx" in literals(node.keys)]
    assert [literals(node.keys) for node in results] == [RESULT_KEYS]
    stored = [
        node.targets[0].slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Subscript)
        and getattr(node.targets[0].value, "id", "") == "result_json"
        and isinstance(node.targets[0].slice, ast.Constant)
    ]
    assert stored == [*SETUP_KEYS, *TRAFFIC_KEYS, *RAMP_KEYS]
    assert DETAILED in [literals(node.elts) for node in ast.walk(tree) if isinstance(node, ast.List)]


RAMP_KEYS = ["ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps"]


def literals(nodes):
    return [node.value for node in nodes if isinstance(node, ast.Constant)]


def test_a_ramp_is_told_with_every_whole_rate_that_it_reached():
    ramp = Ramp("linear", 1.0, 3.0, num_requests=5)
    setup = VllmSetup(date="20260801-120000", backend="vllm", model_id="m", tokenizer_id="m", ramp=ramp)
    result = vllm_result([answered(i, i * 500, i * 500, [i * 500 + 10]) for i in range(5)], FACTS, setup)
    keys = list(result)
    assert keys[len(SETUP_KEYS) : len(SETUP_KEYS) + 6] == [*TRAFFIC_KEYS, *RAMP_KEYS]
    assert keys[keys.index("rtfx") + 1] == "rps_change_events"
    assert (result["ramp_up_strategy"], result["ramp_up_start_rps"], result["ramp_up_end_rps"]) == ("linear", 1, 3)
    assert result["rps_change_events"] == [
        {"rps": 1, "timestamp": "2026-08-01T12:00:00"},
        {"rps": 2, "timestamp": "2026-08-01T12:00:01"},
        {"rps": 3, "timestamp": "2026-08-01T12:00:02"},
    ]


def test_a_cap_gives_the_time_in_the_clients_queue():
    records = [answered(0, 0, 0, [100]), answered(1, 10, 210, [260]), failed(2, 20, 300)]
    result = vllm_result(records, RunFacts(open_loop=True, requested_rate=10.0, max_concurrency=1), SETUP)
    assert result["queue_times"] == pytest.approx([0.0, 0.2, result["queue_times"][2]])
    assert result["latencies"] == pytest.approx([0.1, 0.05, 0.0])
    assert result["mean_client_queue_time_ms"] == pytest.approx(100)
    assert result["mean_e2el_including_client_queue_ms"] == pytest.approx((100 + 250) / 2)
    unlimited = vllm_result(records, FACTS, SETUP)
    assert "mean_client_queue_time_ms" not in unlimited
    assert unlimited["queue_times"] == result["queue_times"]


def test_in_a_closed_loop_all_are_due_at_once_as_in_vllm():
    records = [answered(i, None, i * 100, [i * 100 + 50]) for i in range(3)]
    result = vllm_result(records, RunFacts(open_loop=False, process="closed", max_concurrency=1), SETUP)
    assert result["queue_times"] == pytest.approx([0.0, 0.1, 0.2])
    assert "mean_e2el_including_client_queue_ms" not in result


def test_start_times_are_of_the_clients_monotonic_clock():
    setup = VllmSetup(date="d", backend="vllm", model_id="m", tokenizer_id="m", clock_origin_ns=5_000_000_000)
    result = vllm_result([answered(0, 0, 1000, [1100])], FACTS, setup, detailed=True)
    assert result["start_times"] == [6.0]


def test_constant_gaps_are_burstiness_without_end():
    facts = RunFacts(open_loop=True, requested_rate=10.0, process="constant")
    assert vllm_result(poisson_run(3, 10), facts, SETUP)["burstiness"] == "inf"


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
