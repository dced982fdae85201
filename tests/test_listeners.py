"""Nothing of any suite listens where another machine can reach it: every socket of its process tree, while it runs.

The commands run in a folder of files and folders named as modules are: no child process takes those for the modules.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.listeners import beyond_loopback, watched

BIN = Path(sys.executable).parent
COMMANDS = {
    "train": ("bmp", "train", "gpt-tiny", "--nproc", "2", "--steps", "8", "--quiet"),
    "ranks": ("bmp", "micro", "all_reduce", "-a", "world_size=2", "-a", "batch_size=4", "-a", "dim_size=64", "-a", "dtype=float32"),
    "micro": ("bmp", "micro", "gemm", "-a", "M=64", "-a", "N=64", "-a", "K=64", "-a", "dtype=float32"),
    "general": ("bmp", "general", "wide-deep", "--backend", "torch-inductor", "--stage", "performance", "--seconds", "0.3", "--quiet"),
    "llm": ("bmp-llm", "serve-bench", "--engine", "reference", "--num-prompts", "4", "--output-len", "4", "--request-rate", "20"),
    "workers": ("bmp-llm", "serve-bench", "--engine", "reference", "--num-prompts", "4", "--output-len", "4", "--workers", "2"),
    "doctor": ("bmp-llm", "doctor"),
}
SLOW = ("general", "doctor")
QUICKLY = ("--peaks", "off", "--seconds", "0.2")
FILES = ("torch", "numpy", "json", "random", "msgspec", "queue", "psutil")
FOLDERS = ("micro", "training", "general_perf", "bytemlperf_llm", "bytemlperf", "engines", "scenarios")
PORTS = {"train": 2, "ranks": 2}
"""gloo's own, at least: a run whose sockets were not seen proves nothing."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/net/tcp")
@pytest.mark.parametrize("suite", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in COMMANDS])
def test_a_suite_listens_on_loopback_alone(suite: str, tmp_path: Path) -> None:
    program, *arguments = COMMANDS[suite]
    more = () if suite == "doctor" else (*(QUICKLY if arguments[0] == "micro" else ()), "--runs-dir", "runs")
    for name in (*FILES, *(f"{folder}/__init__" for folder in FOLDERS)):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('a file of the current folder was run')")
    status, seen, out = watched([str(BIN / program), *arguments, *more], tmp_path)
    assert status in (0, 1), out
    assert "was run" not in out
    assert "No module named" not in out
    assert len(seen) >= PORTS.get(suite, 0)
    assert beyond_loopback(seen) == set(), out
