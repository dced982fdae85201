"""Scaling, its extrapolation, precisions: the model's arithmetic, and real studies end to end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bytemlperf.errors import UserError
from bytemlperf.runs.suite import verify_suite
from tests.training.conftest import Ran, bmp
from training.plan.flags import Flags
from training.results.study_summary import PointRecord, pooled
from training.studies.model import contention, latency_and_bandwidth, measured_parts, predict
from training.studies.study import parse_counts, there_and_back


def point(ranks: int, step_ns: float, **changes: object) -> PointRecord:
    values = {
        "ranks": ranks,
        "run": "r",
        "verdict": "valid",
        "samples": 8,
        "tokens": 512,
        "step_ns": [round(step_ns)] * 4,
        "parts_ns": {"forward": 0.3 * step_ns, "backward": 0.5 * step_ns, "optimizer": 0.1 * step_ns, "data": 0.0},
        "hidden_share": 0.0,
        "traffic": [("all_reduce", 2, 10_000_000)],
        "alone": [],
    }
    return PointRecord(**(values | changes))  # type: ignore[arg-type]


def made_up(ranks: int, latency: float = 1e5, bandwidth: float = 1e9) -> float:
    """A machine that obeys the model exactly: 80 ms of computing for 8 samples, 20 ms fixed, one all_reduce in 2 calls."""
    sent = 2 * latency * 2 * (ranks - 1) + 10_000_000 * 2 * (ranks - 1) / ranks * 1e9 / bandwidth if ranks > 1 else 0.0
    return 80e6 / ranks + 20e6 + sent


def alone(size: int, latency: float = 1e5, bandwidth: float = 1e9) -> tuple[str, int, int, float]:
    return ("all_reduce", size, size, 2 * latency + size * 1e9 / bandwidth)


def test_a_machine_that_obeys_the_model_is_predicted_exactly() -> None:
    points = [point(1, made_up(1)), point(2, made_up(2), alone=[alone(10_000_000), alone(625_000)])]
    latency, bandwidth = latency_and_bandwidth(points[1])
    assert (latency, bandwidth) == (pytest.approx(1e5), pytest.approx(1e9))
    parts = measured_parts(points, cores=None, threads=1)
    for ranks in (1, 2, 4, 64):
        record = predict(parts, ranks, 8, 512, point(ranks, made_up(ranks)))
        assert record.error == pytest.approx(0.0, abs=1e-6)


def test_ranks_that_share_cores_take_turns() -> None:
    assert [contention(ranks, 1, 2) for ranks in (1, 2, 4)] == [1.0, 1.0, 2.0]
    assert contention(64, 8, None) == 1.0


def test_a_study_without_communication_predicts_nothing() -> None:
    with pytest.raises(UserError, match="--nproc 1,2"):
        measured_parts([point(1, 1e8)], cores=2, threads=1)


def test_runs_go_back_and_forth_and_are_pooled() -> None:
    runs = [Flags(workload="gpt", nproc=ranks) for ranks in (1, 2)]
    assert [each.nproc for each in there_and_back(runs, 3)] == [1, 2, 2, 1, 1, 2]
    joined = pooled([point(2, 4e6), point(1, 1e6), point(1, 3e6)])
    assert [each.ranks for each in joined] == [1, 2]
    assert joined[0].step_ns == [1_000_000] * 4 + [3_000_000] * 4
    assert joined[0].parts_ns["forward"] == pytest.approx(0.6e6)
    assert parse_counts("4, 1,2") == [1, 2, 4]


@pytest.mark.slow
def test_a_scaling_study_and_its_prediction(train: Callable[..., Ran]) -> None:
    study = train("scale", "gpt-tiny", "--nproc", "1,2", "--repeats", "1", "--steps", "15")
    assert study.status == 0, study.out + study.err
    rows = study.summary["rows"]
    assert [(row["ranks"], row["count"]) for row in rows] == [(1, 10), (2, 10)]
    speed = rows[1]["speed_up"]
    assert speed["value"] == pytest.approx(rows[0]["step_ns"] / rows[1]["step_ns"])
    assert speed["low"] < speed["value"] < speed["high"]
    assert rows[1]["efficiency"]["value"] == pytest.approx(speed["value"] / 2)
    assert verify_suite(study.folder)[0] == []
    assert len(list((study.folder / "runs").iterdir())) == 2
    made = bmp("train", "predict", str(study.folder), "--nproc", "1,2,8", runs_dir=study.folder.parent)
    assert made.status == 0, made.err
    predicted = made.summary["rows"]
    assert predicted[0]["error"] == pytest.approx(0.0, abs=1e-6)
    assert predicted[1]["error"] == pytest.approx(predicted[1]["step_ns"] / rows[1]["step_ns"] - 1)
    assert predicted[2]["measured_ns"] is None
    assert "measured" in made.out


@pytest.mark.slow
def test_precisions_are_compared(train: Callable[..., Ran]) -> None:
    study = train("drift", "gpt-tiny", "--steps", "8", "--threads", "1")
    assert study.status == 0, study.out + study.err
    exact, rough = study.summary["rows"]
    assert (exact["precision"], exact["largest_drift"]) == ("fp32", 0.0)
    assert 0 < rough["largest_drift"] < 0.05
    assert "bf16" in study.out
