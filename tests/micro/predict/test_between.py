"""What an engine takes between its operators, and what waiting for each other's prefill costs: by hand-made times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from micro.predict import between as between_module
from micro.predict.between import Between, Tiny, between, between_of, served
from micro.predict.check import Mean, Measured, compare
from micro.predict.layers import Layered, depth_of
from micro.predict.prediction import Load, Prediction, predict
from micro.predict.schedule import Served, closed_loop
from tests.micro.predict.test_forward import shape
from tests.micro.predict.test_prices import every_call_takes


def test_a_lone_stream_waits_for_its_own_steps_alone() -> None:
    found = closed_loop(1, 8, 11, lambda prompts, _streams: 100.0 if prompts else 5.0, request_ms=2.0)
    assert (found.ttft_ms, found.tpot_ms, found.e2e_ms) == (102.0, 5.0, 152.0)
    assert found.output_tokens_per_s == pytest.approx(11 / 0.152)


def test_streams_drift_apart_and_wait_for_each_others_prefill() -> None:
    steps: list[tuple[int, int]] = []

    def step_ms(prompts: int, streams: int) -> float:
        steps.append((prompts, streams))
        return 100.0 * prompts if prompts else 10.0

    found = closed_loop(4, 4, 11, step_ms, request_ms=1.0)
    assert steps == [(1, 0), (3, 1), *[(0, 4)] * 9, (0, 3)]  # the first begins alone, and ends a step before the others
    assert found.ttft_ms == pytest.approx((101 + 3 * 401) / 4)
    assert found.tpot_ms == pytest.approx(((300 + 9 * 10) / 10 + 3 * 10) / 4)
    steps.clear()
    closed_loop(4, 8, 11, step_ms, request_ms=1.0)
    assert steps[12:15] == [(1, 0), (3, 1), (0, 4)], "and so does its successor, which waits for their last step"


def test_one_token_has_no_tpot() -> None:
    assert closed_loop(2, 2, 1, lambda _prompts, _streams: 7.0, request_ms=0.0).tpot_ms is None


def means(ttft_ms: float, tpot_ms: float) -> Any:
    return between_module._Means(ttft_ms, tpot_ms)


def test_layer_step_stream_and_request_are_told_apart() -> None:
    found = between_of(30, 4, lone=means(14.0, 8.0), few=means(9.0, 2.4), many=means(40.0, 8.9))
    assert found.layer_ms == pytest.approx(0.2)
    assert found.step_ms == pytest.approx(2.0)
    assert found.stream_ms == pytest.approx(0.3)
    assert found.request_ms == pytest.approx(6.0)
    assert found.of_step(4) == pytest.approx(8.9)
    assert between_of(30, 4, means(1.0, 2.0), means(1.0, 3.0), means(1.0, 1.0)).of_step(4) == 2.0, "noise makes nothing negative"


def test_an_engines_figures_are_its_operators_and_what_is_between_them() -> None:
    load, of = Load(1, 32, 9), shape()
    parts = Between(layers=3, layer_ms=0.1, step_ms=1.0, stream_ms=0.0, request_ms=4.0)

    def operators(other: Load) -> Prediction:
        return predict(of, other, "bfloat16", every_call_takes(10.0), all_hot=True)

    alone, found = operators(load), served(of, load, 8, parts, operators)
    assert alone.tpot_ms is not None
    assert found.ttft_ms == pytest.approx(4.0 + alone.ttft_ms + 1.3)
    assert found.tpot_ms == pytest.approx(alone.tpot_ms + 1.3)


def measured(ttft_ms: float, tpot_ms: float) -> Measured:
    return Measured(Path("run"), Mean(ttft_ms, None, None), Mean(tpot_ms, None, None), Mean(9.0, None, None), 100.0, "cpu", "float32", [])


def test_it_is_measured_with_models_without_arithmetic_less_their_operators_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    ran: list[list[str]] = []

    def run(arguments: list[str], _runs_dir: Path) -> Measured:
        ran.append(arguments)
        layers = int(arguments[arguments.index("--model") + 1].partition("=")[2])
        return measured(ttft_ms=20.0 + layers, tpot_ms=3.0 + layers)

    monkeypatch.setattr(between_module, "measure", run)
    tiny = Tiny("vllm", "bfloat16", "cpu", 1, every_call_takes(10.0), tmp_path, lambda _sentence: None)
    found = between(tiny, 6, Load(2, 32, 9))
    calls_a_layer = 10  # qkv, rotary, store, attention, o; two norms; gate and up, swiglu, down
    assert [(line[line.index("--model") + 1], line[line.index("--max-concurrency") + 1]) for line in ran] == [
        ("synthetic:layers=6", "1"),
        ("synthetic:layers=2", "1"),
        ("synthetic:layers=6", "2"),
    ]
    assert found.layer_ms == pytest.approx(1.0 - 0.01 * calls_a_layer)
    assert found.request_ms == pytest.approx(17.0)
    assert between(tiny, 6, Load(2, 32, 9)) == found
    assert len(ran) == 3
    between(tiny, 6, Load(2, 32, 9), fresh=True)
    assert len(ran) == 6


def test_the_error_is_of_the_engines_figures() -> None:
    checked = compare("vllm", [], Served(110.0, 9.0, 9.0, 120.0), measured(100.0, 10.0))
    assert [(figure.name, round(figure.error, 3)) for figure in checked.figures] == [
        ("TTFT", 0.1),
        ("TPOT", -0.1),
        ("E2E", 0.0),
        ("output throughput", 0.2),
    ]


def test_a_whole_model_follows_from_two_depths() -> None:
    few, more = (depth_of(layers, measured(ttft_ms=20.0 + 5 * layers, tpot_ms=1.0 + 0.5 * layers)) for layers in (6, 12))
    depths = Layered(few=few, more=more, layers=30)
    assert (depths.of_layer("tpot_ms"), depths.rest("tpot_ms")) == (0.5, 1.0)
    found = depths.served(Load(2, 32, 9))
    assert (found.ttft_ms, found.tpot_ms, found.e2e_ms) == (170.0, 16.0, 9.0)
    assert found.output_tokens_per_s == pytest.approx(2 * 9 / 0.009)
