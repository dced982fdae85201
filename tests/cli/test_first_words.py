"""What a newcomer types first: the version, short help, a command without its suite, a run's beginning; and how scripts are answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from bytemlperf.command.flags import RunOutput
from bytemlperf.errors import UserError
from bytemlperf.runs.conditions import unmet
from bytemlperf.runs.kinds import Figure
from tests.cli.helpers import bmp as bmp_llm

APP = [sys.executable, "-c", "import sys; sys.argv[0] = 'bmp'; from bytemlperf.app import main; main()"]
RUN = ("serve-bench", "--engine", "reference", "--scenario", "smoke", "--num-prompts", "20", "--request-rate", "50", "--no-report")


def bmp(*words, cwd, **env):
    return subprocess.run([*APP, *words], capture_output=True, text=True, cwd=cwd, env=os.environ | env, check=False, timeout=60)


def test_version_and_short_help(tmp_path):
    assert bmp("--version", cwd=tmp_path).stdout == f"bytemlperf-llm {version('bytemlperf-llm')}\n"
    assert bmp_llm("--version", cwd=tmp_path).stdout == f"bytemlperf-llm {version('bytemlperf-llm')}\n"
    short = bmp("-h", cwd=tmp_path)
    assert (short.returncode, short.stdout) == (0, bmp("--help", cwd=tmp_path).stdout)
    assert [head for head in ("Suites:", "Runs:", "Hardware and models:", "Examples:") if head not in short.stdout] == []
    assert "Usage" in bmp_llm("serve-bench", "-h", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("serve-bench", "bmp llm serve-bench"),
        ("gemm", "bmp micro gemm"),
        ("resnet50", "bmp general resnet50"),
        ("gpt", "bmp train gpt"),
        ("frobnicate", "valid: "),
    ],
)
def test_a_word_of_a_suite_names_its_command(word, meant, tmp_path):
    ended = bmp(word, cwd=tmp_path)
    assert ended.returncode == 2
    assert meant in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_shell_completes_the_names_of_runs(tmp_path):
    for name in ("20260101T000000Z-llm-monday-abc123", "20260102T000000Z-llm-tuesday-def456"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")

    def offered(line):
        words = line.split(" ")
        env = {"_BMP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        return bmp(cwd=tmp_path, **env).stdout.split()

    assert offered("bmp report ") == ["latest", "tuesday", "monday", "def456", "abc123"]
    assert offered("bmp compare mon") == ["monday"]


def test_a_script_gets_json_and_a_status(tmp_path):
    ended = bmp_llm(*RUN, "--json", "--fail-if", "ttft p50 > 1", cwd=tmp_path)
    said = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert said["outcomes"]["ok"] == 20
    assert said == json.loads((tmp_path / said["folder"] / "summary.json").read_text()) | {
        "folder": said["folder"],
        "fail_if": said["fail_if"],
    }
    assert "ttft p50 > 1: it is" in said["fail_if"][0]
    assert "ttft p50 > 1: it is" in ended.stderr
    assert bmp_llm(*RUN, "--fail-if", "ttft p50 > 1000", cwd=tmp_path).returncode == 0
    assert bmp_llm(*RUN, "--fail-if", "ttft p99 > 1000", cwd=tmp_path).returncode == 1  # 20 requests carry no p99


def test_a_condition_that_cannot_be_evaluated_does_not_pass():
    figures = [Figure(key="", metric="ttft p50", label="TTFT p50", unit="ms", value=5.0, better="lower")]
    figures.append(Figure(key="", metric="ttft p99", label="TTFT p99", unit="ms", value=None, better="lower", reason="too few"))
    assert unmet(figures, ["ttft p50 > 6", "TTFT p50 < 4"]) == []
    assert unmet(figures, ["ttft p50 > 4"]) == ["ttft p50 > 4: it is 5 ms"]
    assert unmet(figures, ["ttft p99 > 4"]) == ["ttft p99 > 4: can't be evaluated: too few"]
    assert "there are: ttft p50" in unmet(figures, ["tpot p50 > 4"])[0]


@pytest.mark.parametrize("text", ["ttft p50", "ttft p50 > 5%", "any worse > 5%"])
def test_a_condition_of_one_run_is_a_limit(text):
    with pytest.raises(UserError):
        RunOutput(fail_if=(text,))
