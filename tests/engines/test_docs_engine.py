"""docs/engines.md shows the package that `engine new` writes: this writes, installs and runs it, and its own test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.conformance.skeleton import new_engine
from tests.runs.reading import read_records

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_example_is_short():
    lines = sum(len(block.splitlines()) for block in code_blocks("toml") + code_blocks("python"))
    assert lines < 60


def test_the_example_is_what_engine_new_writes(tmp_path):
    folder = new_engine("echo", tmp_path)
    assert (folder / "pyproject.toml").read_text() == code_blocks("toml")[0]
    assert (folder / "bmp_echo.py").read_text() == code_blocks("python")[0]


@pytest.mark.parametrize(("name", "said"), [("Ec ho", "can't be"), ("vllm", "already"), ("../x", "can't be"), ("there", "can't write")])
def test_names_that_cannot_be_are_refused(name, said, tmp_path):
    (tmp_path / "bmp-there").mkdir()
    with pytest.raises(UserError, match=said):
        new_engine(name, tmp_path)


@pytest.mark.slow
def test_a_new_engine_installs_runs_and_passes_its_own_test(tmp_path):
    site = tmp_path / "site"
    source = new_engine("echo", tmp_path)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr

    environment = os.environ | {"PYTHONPATH": str(site), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def bmp(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from bytemlperf_llm.cli import main; main()", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    assert "echo" in bmp("engines").stdout
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(source)]
    tested = subprocess.run(test, capture_output=True, text=True, env=environment, cwd=source, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    ran = bmp("serve-bench", "--engine", "echo", "--scenario", "smoke", "--request-rate", "20", "--num-prompts", "20", "--quiet")
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / ran.stdout.strip().splitlines()[-1]
    records = list(read_records(folder))
    assert len(records) == 20
    assert {record.outcome for record in records} == {"ok"}
