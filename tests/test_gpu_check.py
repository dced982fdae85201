"""scripts/gpu_check.py on the processor: every step of it works, what breaks is a row, and the folder has page and table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"


def checked(out: Path, *flags: str) -> tuple[int, list[dict[str, str]], str]:
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cpu", "--out", out, *flags], capture_output=True, text=True, timeout=600, check=False
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, json.loads((out / "gpu_check.json").read_text()), ended.stdout


@pytest.mark.slow
def test_every_step_on_the_processor(tmp_path: Path) -> None:
    status, rows, printed = checked(tmp_path / "box")
    assert status == 0, printed
    assert {row["step"] for row in rows} == {"device", "timing", "operators", "links", "general", "training", "serving"}
    assert all(row["outcome"] == "pass" for row in rows if row["step"] != "timing"), "a busy processor proves nothing of stopwatches"
    page = (tmp_path / "box" / "index.html").read_text()
    assert page.count("<tr") == len(rows) + 1
    assert page.count("report.html") == 4, "operators, general, training, serving"


def test_what_has_no_time_left_is_a_failed_row(tmp_path: Path) -> None:
    status, rows, printed = checked(tmp_path / "box", "--minutes", "0", "--only", "serving")
    assert status == 1
    assert [(row["step"], row["outcome"], row["seen"]) for row in rows] == [("serving", "fail", "not done in 5 s")]
    assert "1 check, 1 failed" in printed
