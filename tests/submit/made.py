"""Submissions to check: real run folders, written by the writer that all suites use, with a general run's records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from bytemlperf.hardware.machine import package_versions
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.submit.rules import REGULAR_MODELS
from bytemlperf.version import __version__

DECLARATION = """\
vendor: Example
device: T4
suites: [general]
precisions: [fp32]
sparsity: none
environment:
  lock: requirements.lock
  install: install.sh
"""
PACKAGES = ("pytest",)


def record(job: str, stage: str, **more: object) -> dict[str, object]:
    model, backend, precision = job.split("/")
    base = {
        "job": job,
        "attempt": 1,
        "model": model.split("@")[0],
        "backend": backend,
        "precision": precision,
        "device": "cpu",
        "stage": stage,
    }
    return base | {"status": "ok", "error_class": "", "reason": "", "fix": ""} | more


def job_records(job: str, *, status: str = "ok", reason: str = "", sparsity: str = "none") -> list[dict[str, object]]:
    """What a sweep writes for one job, the latencies few."""
    return [
        record(job, "compile", weights="random weights, seed 0", compile_s=0.5, artefact_bytes=1000),
        record(job, "sparsity", sparsity=sparsity, source={"values": 9, "zero_share": 0.0, "patterns": {}}, compiled=None),
        record(job, "load", load_s=0.1, first_call_s=0.01, first_answer_s=0.6),
        record(
            job,
            "performance",
            loop="closed",
            batch_size=1,
            instances=1,
            threads=1,
            latency_ns=[1_000_000 + 1000 * index for index in range(40)],
            service_ns=[],
            window_ns=30_000_000,
            warmup_ns=[],
            peak_host_bytes=1 << 20,
            peak_device_bytes=None,
            requested_rate=None,
            planned=None,
            dropped=0,
        ),
        record(
            job,
            "job",
            status=status,
            reason=reason,
            wall_s=1.0,
            compiled_at_first_try=status == "ok",
            peak_tree_bytes=1 << 20,
            usability={},
        ),
    ]


def general_run(
    folder: Path,
    models: Iterable[str] = REGULAR_MODELS,
    *,
    size: str = "published",
    precision: str = "fp32",
    stop: bool = False,
    **how: str,
) -> Path:
    """A run folder of kind general, whole, as `bmp general` leaves one."""
    jobs = [f"{model}{'' if size == 'published' else f'@{size}'}/onnxruntime/{precision}" for model in models]
    config = {"jobs": jobs, "plan": [{"id": job, "size": size} for job in jobs]}
    with SuiteRun.begin(folder, "general", "made", config, command=["bmp", "general", "all"], seed=0, packages=PACKAGES) as run:
        for job in jobs:
            for each in job_records(job, **how):
                run.append(each)
        if stop:
            run.end(stopped=True)
    return run.folder


def submission(folder: Path, declaration: str = DECLARATION, **how: object) -> Path:
    """A folder that the rules accept, unless told otherwise."""
    folder.mkdir(parents=True)
    (folder / "submission.yaml").write_text(declaration)
    pins = {**package_versions(PACKAGES), "bytemlperf-llm": __version__}
    (folder / "requirements.lock").write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    (folder / "install.sh").write_text("pip install --no-deps -r requirements.lock\n")
    general_run(folder / "runs", **how)
    return folder


@pytest.fixture
def accepted(tmp_path: Path) -> Path:
    return submission(tmp_path / "mine")
