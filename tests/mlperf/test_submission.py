"""A submission folder: what stands in it, and that MLCommons' own checker accepts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bytemlperf.errors import UserError
from bytemlperf_llm.cli import app
from bytemlperf_llm.mlperf.seeds import SEED_SETS, sampling_seed
from bytemlperf_llm.mlperf.shortfalls import ALWAYS
from tests.mlperf.made import closed_records, closed_run

SEEDS = SEED_SETS["A"]
POINTS = (1, 4, 12, 32, 48, 64, 96)
SIZE = 96
DISCLOSURE = """\
organization: example
submission: first
division: Standardized
system:
  name: two sockets
  short_name: 2S
  availability: Available
  availability_url: https://example.com/server
  node: {host_memory_configuration: 16 x 64 GB DDR5, host_network_card_count: 1 x 100 Gbit/s, driver: none, filesystem: ext4}
model: {name: llama3_1-8b, link: https://example.com/model}
dataset: {name: own, link: https://example.com/data, size: 96}
accuracy: {1: accuracy.json, 4: accuracy.json, 12: accuracy.json, 96: accuracy.json}
"""
ACCURACY = {
    "cnn_dailymail": {
        "num_samples": 13368,
        "score": {"rouge1": 38.8, "rouge2": 15.95, "rougel": 24.5, "rougelsum": 35.8, "gen_len": 8167644},
    }
}


def long_points(folder: Path, passes: int = 8) -> list[Path]:
    """Seven runs over the shortest steady windows that the rules have, and a fifth more."""
    found = []
    for concurrency in POINTS:
        least_s = (600 if concurrency <= 32 else 1200) * 1.1 * passes / (passes - 2)
        each_ms = least_s * 1000 * concurrency / (passes * SIZE)
        records = closed_records(concurrency, passes * SIZE, tpot_ms=lambda _, gap=(each_ms - 110) / 7: gap)
        mlperf = {"dataset_size": SIZE, "short": False, "seed_set": "A"}
        run = closed_run(folder / f"r{concurrency}", concurrency, records, mlperf, SEEDS.sample_index_rng_seed, sampling_seed(SEEDS))
        found.append(run)
    return found


def export(runs: Path, out: Path, *more: str) -> Path:
    result = CliRunner().invoke(app, ["endpoints", "export", str(runs), "--out", str(out), *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return Path(result.stdout.strip().splitlines()[-1])


def checked(folder: Path) -> dict[str, Any]:
    """The report of `endpoints-submission-cli check-submission`."""
    pytest.importorskip("endpoints_submission_cli", reason="endpoints-submission-cli is not installed (extra dev)")
    command = [sys.executable, "-m", "endpoints_submission_cli", "check-submission", str(folder), "--json", "--no-annotate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    report["status"] = done.returncode
    return report


def rules(report: dict[str, Any], severity: str) -> set[str]:
    return {result["rule"] for result in report["results"] if result["severity"] == severity}


@pytest.fixture(scope="module")
def disclosure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stated") / "disclosure.yaml"
    path.write_text(DISCLOSURE)
    (path.parent / "accuracy.json").write_text(json.dumps(ACCURACY))
    return path


@pytest.fixture(scope="module")
def submission(tmp_path_factory: pytest.TempPathFactory, disclosure: Path) -> Path:
    folder = tmp_path_factory.mktemp("points")
    long_points(folder / "runs")
    return export(folder / "runs", folder / "out", "--disclosure", str(disclosure))


def test_the_checker_accepts_long_runs_that_state_everything(submission: Path) -> None:
    report = checked(submission)
    assert [(each["rule"], each["message"]) for each in report["results"] if each["severity"] == "error"] == []
    assert report["status"] == 0
    assert rules(report, "warning") <= {"maximal-engagement"}  # a system without accelerators has none to engage


def test_what_only_official_data_can_satisfy_is_named(submission: Path) -> None:
    assert named(submission) == {*ALWAYS, "maximal-engagement"}


def named(folder: Path) -> set[str]:
    """The rules that the submission's own page names."""
    return {line.split("`")[1] for line in (folder / "docs" / "README.md").read_text().splitlines() if line.startswith("- `")}


def test_whatever_the_checker_finds_in_short_runs_is_named(tmp_path: Path) -> None:
    for concurrency in (2, 8):
        closed_run(tmp_path / "runs" / f"r{concurrency}", concurrency, closed_records(concurrency, 40))
    folder = export(tmp_path / "runs", tmp_path / "out", "--dataset-size", "7")
    report = checked(folder)
    assert report["status"] == 1
    assert {"point-count", "region-computation", "model-name-valid", "accuracy-present"} <= rules(report, "error")
    assert rules(report, "error") | rules(report, "warning") <= named(folder)
    assert "rules 6.4" in named(folder)  # 40 requests are no passes of 7


def test_the_figures_are_the_rules_own(submission: Path) -> None:
    """TTFT goes from 100 to 115 ms in 16 steps and TPOT over 1.5 %: every percentile is known."""
    point = submission / "results" / "two_sockets" / "llama3_1-8b" / "r12"
    summary = json.loads((point / "result_summary.json").read_text())
    stated = yaml.safe_load((point / "point.yaml").read_text())
    window = stated["steady_state"]["window"]
    assert stated["region"] == "med_concurrency"
    assert (window["super_pass_start"], window["super_pass_end"], window["n_samples"]) == (1, 7, 7 * SIZE)
    assert summary["basis"] == "steady_state"
    assert summary["n_samples_completed"] == 7 * SIZE
    assert summary["total"]["n_samples_completed"] == 8 * SIZE
    assert summary["ttft_p90_ms"] == pytest.approx(114)
    assert summary["tps_per_user"] == pytest.approx(1e9 / summary["tpot"]["percentiles"]["90.0"])
    assert summary["system_tps"] == pytest.approx(7 * SIZE * 8 / window["duration_s"])
    power = json.loads((submission / "results" / "two_sockets" / "system_power.json").read_text())
    part = power["node_sets"][0]["components"]["combined_cpu_accelerator"]
    assert (part["value_w"], part["source_type"]) == (2 * 350, "vendor_spec")
    assert summary["system_tps_per_kw"] == pytest.approx(summary["system_tps"] / 1.05)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"arrival": {"process": "poisson", "rate": 4.0}}, "is not a point: its load is Poisson"),
        ({"warmup_requests": 4}, ""),
    ],
)
def test_a_run_under_another_load_is_no_point(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    folder = closed_run(tmp_path / "r4", 4, closed_records(4, 64))
    run = json.loads((folder / "run.json").read_text())
    run["config"]["scenario"] |= change
    (folder / "run.json").write_text(json.dumps(run))
    if cause:
        with pytest.raises(UserError, match=cause):
            export(folder, tmp_path / "out", "--dataset-size", "8")
    else:
        assert "warmup-present" in named(export(folder, tmp_path / "out", "--dataset-size", "8"))


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run folder"):
        export(tmp_path, tmp_path / "out")
    runs = [closed_run(tmp_path / "runs" / name, 4, closed_records(4, 64)) for name in ("a", "b")]
    with pytest.raises(UserError, match="are both at 4 in flight"):
        export(tmp_path / "runs", tmp_path / "out", "--dataset-size", "8")
    folder = export(runs[0], tmp_path / "out", "--dataset-size", "8")
    with pytest.raises(UserError, match=f"{folder} is there already"):
        export(runs[0], tmp_path / "out", "--dataset-size", "8")
    wrong = tmp_path / "stated.yaml"
    wrong.write_text("system: {availability: Available}\n")
    with pytest.raises(UserError, match=r"stated.yaml:1: system: an Available system needs availability_url"):
        export(runs[0], tmp_path / "out", "--disclosure", str(wrong))
