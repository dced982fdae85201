"""`bmp-llm endpoints run` on the reference engine in this process, and how long a point goes on, on a clock of paper."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bytemlperf.app import app as bmp
from bytemlperf.errors import UserError
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.cli import app
from bytemlperf_llm.mlperf.running import PassSchedule
from bytemlperf_llm.mlperf.seeds import SEED_SETS, sampling_seed
from bytemlperf_llm.plan.scenario import load
from bytemlperf_llm.workload.schedule import Schedule
from tests.mlperf.test_submission import checked, named, rules

SERVICE = ("--engine", "reference", "--engine-option", "ttft_ms=1", "--engine-option", "itl_ms=0.2", "--output-len", "8", "--no-report")
SHORT = (*SERVICE, "--short", "--dataset-size", "12", "--seed-set", "A")


def endpoints_run(tmp_path: Path, *more: str) -> Path:
    result = CliRunner().invoke(app, ["endpoints", "run", "--runs-dir", str(tmp_path), "--quiet", *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return Path(result.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("size", "seconds_each", "after_first_s", "requests"),
    [
        (10, 0.1, 0, 60),  # six passes, however short
        (10, 1.0, 65, 80),  # the passes after the first must last 65 s: seven of them
        (10, 30.0, 600, 60),
        (1, 1.0, 10.5, 12),
    ],
)
def test_a_point_goes_on_over_whole_passes_until_it_is_long_enough(
    size: int, seconds_each: float, after_first_s: float, requests: int
) -> None:
    clock = count(0, round(seconds_each * 1e9))
    now_ns = 0

    def now() -> int:
        return now_ns

    scenario = load("chat").override({"arrival": {"process": "closed", "max_concurrency": 4}, "duration_s": 9e5})
    sent = 0
    for planned in PassSchedule(Schedule(scenario, 1), size, 6, after_first_s, now).planned():
        assert planned.request.index == sent
        sent, now_ns = sent + 1, next(clock)
    assert sent == requests


def test_a_short_run_ends_in_a_submission_whose_shortfalls_are_named(tmp_path: Path) -> None:
    submission = endpoints_run(tmp_path, *SHORT, "--concurrency", "4 ,1")
    folder = submission.parents[2]
    runs = {int(path.parent.name.split("-r")[1].split("-")[0]): json.loads(path.read_bytes()) for path in folder.glob("*/run.json")}
    assert sorted(runs) == [1, 4]
    for run in runs.values():
        assert run["mlperf"] == {"dataset_size": 12, "short": True, "seed_set": "A", "max_concurrency": None}
        assert run["config"]["scenario"]["prompts"]["drawn"] == 12
        assert run["end"]["issued_requests"] == 72
        assert run["facts"]["scheduled_requests"] == 72
    assert [verify_suite(path.parent).findings for path in (folder / "run.json", *folder.glob("*/run.json"))] == [[], [], []]
    (curve,) = json.loads((folder / "endpoints.json").read_bytes())["curves"]
    assert sorted(point["load"]["concurrency"] for point in curve["points"]) == [1, 4]
    listed = CliRunner().invoke(bmp, ["runs", "--runs-dir", str(tmp_path)])
    assert "endpoints" in listed.stdout
    assert "1 run\n" in listed.stdout
    assert CliRunner().invoke(bmp, ["report", str(folder)]).exit_code == 0
    point = yaml.safe_load(next(submission.glob("results/*/*/r4/point.yaml")).read_text())
    assert point["runtime_settings"]["runtime"] == {name: seed for name, seed in SEED_SETS["A"]._asdict().items() if name != "cohort"}
    assert point["runtime_settings"]["min_duration_ms"] == 0
    assert point["target_cohort"] == "2026-10-C1"
    assert "rules 6.2" in named(submission)
    assert "rules 6.4" not in named(submission)
    report = checked(submission)
    assert rules(report, "error") | rules(report, "warning") <= named(submission)
    assert not rules(report, "error") & {"seed-runtime-match", "seed-set-membership", "warmup-present", "seed-set-adoption"}


def test_stopped_points_go_on_with_the_same_flags(tmp_path: Path) -> None:
    folder = endpoints_run(tmp_path, *SHORT, "--concurrency", "2").parents[2]
    (before,) = ((path, path.read_bytes()) for path in folder.glob("*/records.jsonl"))
    with pytest.raises(UserError, match="was made with other flags"):
        endpoints_run(tmp_path, *SHORT, "--concurrency", "2,3", "--resume", str(folder), "--input-len", "9")
    submission = endpoints_run(tmp_path, *SHORT, "--concurrency", "2,3", "--resume", str(folder))
    assert submission.parents[2] == folder
    assert sorted(path.name for path in submission.glob("results/*/*/r*")) == ["r2", "r3"]
    assert len(list(folder.glob("*/records.jsonl"))) == 2
    assert before[0].read_bytes() == before[1]


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (("--concurrency", "1,many"), "--concurrency 'many' is not a number above 0"),
        (("--concurrency", ",".join(map(str, range(1, 40)))), "39 points, and a submission has at most 32"),
        (("--concurrency", "1,64", "--max-concurrency", "32"), "--concurrency 64 is above --max-concurrency 32"),
        (("--seed-set", "B"), "--seed-set 'B' is not published"),
        (("--scenario", "mixed"), "the rules know requests of one kind, and the scenario has classes"),
        (("--input-len", "9"), "synthetic prompts have no data set's size"),
        (("--dataset-size", "12", "--engine-option", "fail_every=1"), "the first request fails"),
    ],
)
def test_bad_input_is_said_before_a_point(tmp_path: Path, flags: tuple[str, ...], cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        endpoints_run(tmp_path, *SERVICE, "--short", *flags)


def test_a_file_that_the_disclosure_names_is_read_before_hours_are_spent(tmp_path: Path) -> None:
    (tmp_path / "disclosure.yaml").write_text("accuracy: {1: r1.json}\n")
    with pytest.raises(UserError, match=r"r1.json can't be read: No such file"):
        endpoints_run(tmp_path / "runs", *SHORT, "--disclosure", str(tmp_path / "disclosure.yaml"))
    assert not (tmp_path / "runs").exists()


def test_a_failing_point_ends_it_and_says_where_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the point at 1 in flight is failing: .* requests failed"):
        endpoints_run(tmp_path, *SHORT, "--concurrency", "1,2", "--engine-option", "fail_every=3")
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "endpoints.json").read_bytes())
    assert summary["verdict"] == "invalid"
    assert "the point at 1 in flight is failing" in summary["reasons"][0]


def test_the_models_seed_is_the_same_64_bits() -> None:
    values: dict[str, Any] = SEED_SETS["A"]._asdict()
    assert sampling_seed(SEED_SETS["A"]) % (1 << 64) == values["model_seed"]
    assert -(1 << 63) <= sampling_seed(SEED_SETS["A"]) < 1 << 63
