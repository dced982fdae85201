"""`--until`: a run that ends once a figure's interval is narrow, and one whose budget ends first."""

from __future__ import annotations

import json

import pytest

from tests.cli.helpers import QUICK, bmp, run_folder

PACED = (*QUICK, "--request-rate", "500", "--num-prompts", "900")


def test_a_run_ends_once_its_interval_is_narrow(tmp_path):
    ended = bmp(*PACED, "--until", "ttft mean ±100%", cwd=tmp_path)
    assert ended.returncode in (0, 1), ended.stderr
    folder = run_folder(ended.stdout, tmp_path)
    run, summary = (json.loads((folder / name).read_text()) for name in ("run.json", "summary.json"))
    until = summary["until"]
    assert until["reached"]
    assert until["requests"] <= summary["scheduled"] == summary["outcomes"]["ok"] < 900
    assert run["scheduled_requests"] == run["config"]["scenario"]["num_requests"] == summary["scheduled"]
    assert run["config"]["until"] == {"asked": "ttft mean ±100%", "budget": 900}
    assert run["end"]["until"] == until
    assert not run["end"]["stopped_by_user"]
    assert until["sentence"] in ended.stdout
    assert "reached with" in (folder / "report.html").read_text()
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0
    again = bmp("resume", str(folder), "--num-prompts", str(summary["scheduled"] + 50), cwd=tmp_path)
    assert again.returncode in (0, 1), again.stderr
    after = json.loads((folder / "summary.json").read_text())
    assert after["outcomes"]["ok"] == summary["scheduled"] + 50
    assert after["until"] == until  # what ended the run stays what it was


def test_a_budget_that_ends_first_is_said(tmp_path):
    ended = bmp(*QUICK, "--request-rate", "500", "--num-prompts", "80", "--until", "ttft p99 ±1%", cwd=tmp_path)
    folder = run_folder(ended.stdout, tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["scheduled"] == 80
    assert not summary["until"]["reached"]
    assert "not reached: insufficient requests" in ended.stdout


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (("--until", "ttft"), "is not a figure and a width"),
        (("--until", "ttft p99 ±10%", "--workers", "2"), "one worker"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_starts(tmp_path, flags, cause):
    ended = bmp(*PACED, *flags, cwd=tmp_path)
    assert ended.returncode == 2
    assert cause in ended.stderr
    assert not (tmp_path / "runs").exists()
