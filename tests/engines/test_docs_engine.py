"""docs/engines.md shows a whole engine package: this installs and runs exactly that text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.reading import read_records

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_example_is_short():
    lines = sum(len(block.splitlines()) for block in code_blocks("toml") + code_blocks("python"))
    assert lines < 60


@pytest.mark.slow
def test_the_example_installs_and_runs(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(code_blocks("toml")[0])
    (source / "bmp_echo.py").write_text(code_blocks("python")[0])
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr

    environment = os.environ | {"PYTHONPATH": str(site)}

    def bmp(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from bytemlperf_llm.cli import main; main()", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    assert "echo" in bmp("engines").stdout
    checked = bmp("engine", "check", "echo")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    ran = bmp("serve-bench", "--engine", "echo", "--scenario", "smoke", "--request-rate", "20", "--num-prompts", "20", "--quiet")
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / ran.stdout.strip().splitlines()[-1]
    records = list(read_records(folder))
    assert len(records) == 20
    assert {record.outcome for record in records} == {"ok"}
