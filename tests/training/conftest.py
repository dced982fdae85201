"""Real runs under a real torchrun with gloo, each made once and looked at by many tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

BMP = Path(sys.executable).with_name("bmp")
PATIENCE_S = 240
STEPS = 50


class Ran(NamedTuple):
    """A finished command."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def records(self) -> list[dict[str, Any]]:
        lines = [line for path in sorted(self.folder.glob("records*.jsonl")) for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["record"] == "step"]

    def only(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["record"] == kind]

    @property
    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return content

    def check(self, name: str) -> dict[str, Any]:
        return next(check for check in self.summary["checks"] if check["name"] == name)


def bmp(*arguments: str, runs_dir: Path | None = None) -> Ran:
    """Run `bmp`; the run folder is the last line that it printed."""
    command = [str(BMP), *arguments, *(["--runs-dir", str(runs_dir)] if runs_dir else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    last = done.stdout.strip().splitlines()[-1:] or [""]
    return Ran(done.returncode, done.stdout, done.stderr, Path(last[0]))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ("BMP_CACHE", "COLUMNS")}
    os.environ |= {"BMP_CACHE": str(tmp_path_factory.mktemp("cache")), "COLUMNS": "160"}
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """`bmp train …` into a folder of its own."""
    runs = tmp_path_factory.mktemp("runs")
    return lambda *arguments: bmp("train", *arguments, runs_dir=runs)


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """`bmp micro` of a collective, over two ranks in two sizes and types."""
    sizes = ("-a", "world_size=2", "-a", "batch_size=16,256", "-a", "dim_size=1024", "-a", "dtype=float32,bfloat16")
    quickly = ("--peaks", "off", "--seconds", "0.2")
    return bmp("micro", "all_reduce", *sizes, *quickly, runs_dir=tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def ddp_run(train: Callable[..., Ran], micro_run: Ran) -> Ran:
    """Two data parallel ranks, 50 steps, bit for bit, with checkpoints, beside what `bmp micro` measured."""
    flags = ("--deterministic", "--checkpoint-every", "20", "--micro-run", str(micro_run.folder))
    return train("gpt-tiny", "--nproc", "2", "--dp", "2", "--steps", str(STEPS), *flags)


@pytest.fixture(scope="session")
def killed_run(train: Callable[..., Ran], ddp_run: Ran) -> Ran:
    """The same, with rank 1 killed in step 33: torchrun starts the ranks again."""
    flags = (
        "--rerun-of",
        str(ddp_run.folder),
        "--deterministic",
        "--checkpoint-every",
        "20",
        "--max-restarts",
        "1",
        "--fault",
        "kill:1:33",
        "--no-operator-check",
    )
    return train("gpt-tiny", "--nproc", "2", "--dp", "2", "--steps", str(STEPS), *flags)


@pytest.fixture(scope="session")
def tensor_run(train: Callable[..., Ran]) -> Ran:
    """Two tensor parallel ranks."""
    return train("gpt-tiny", "--nproc", "2", "--tp", "2", "--steps", "12", "--no-operator-check")


@pytest.fixture(scope="session")
def megatron_run(train: Callable[..., Ran]) -> Ran:
    """Megatron-Core, two tensor parallel ranks, 50 steps."""
    return train("gpt-tiny", "--trainer", "megatron", "--nproc", "2", "--tp", "2", "--steps", str(STEPS), "--no-operator-check")
