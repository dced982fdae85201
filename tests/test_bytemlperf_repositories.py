"""ByteMLPerf's and xpu-perf's own files, all of them: nothing stops a sweep, and what is refused is refused for one of these reasons.

    BYTEMLPERF_FOLDERS=/path/to/ByteMLPerf:/path/to/xpu-perf pytest -s tests/test_bytemlperf_repositories.py

The folders are checkouts; the rest of the tests has files of the same shapes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from general_perf.command.flags import Flags
from general_perf.command.plan import plan
from micro.cases.selection import workload_cases

FOLDERS = [Path(each) for each in os.environ.get("BYTEMLPERF_FOLDERS", "").split(":") if each]
pytestmark = pytest.mark.skipif(not FOLDERS, reason="BYTEMLPERF_FOLDERS names no checkout of ByteMLPerf or xpu-perf")
KNOWN = (
    r"='mxfloat[48]' is none of",
    "a placeholder without cases",
    "the file is empty",
    r"layout is ByteMLPerf's before 2025",
)
FAILED = ("missing_weights", "unsupported_format")


def workloads(part: str) -> list[Path]:
    files = [file for folder in FOLDERS for file in folder.rglob("*") if file.suffix in (".json", ".csv") and "workloads" in file.parts]
    return sorted(file for file in files if part in file.parts)


def test_every_operator_workload_is_rows() -> None:
    counts: Counter[str] = Counter()
    files = [file for part in ("micro_perf", "byte_micro_perf") for file in workloads(part)]
    for file in files:
        for case in workload_cases(file, None):
            counts[next((reason for reason in KNOWN if re.search(reason, case.refusal)), case.refusal)] += 1
    print(f"{len(files)} files: {dict(counts)}")
    assert files
    assert set(counts) <= {"", *KNOWN}


@pytest.mark.parametrize("random_weights", [False, True])
def test_every_general_pair_is_a_row(random_weights: bool) -> None:
    folders = sorted({file.parent for file in workloads("general_perf")})
    jobs = []
    for folder in (*folders, *(each.with_name("model_zoo") for each in folders)):
        flags = Flags(models=(str(folder),), backends=("onnxruntime",), precisions=("fp32",), random_weights=random_weights)
        found = plan(flags)
        assert len(found) == len(list(folder.glob("*.json")))
        jobs += found
    print(f"{len(jobs)} pairs: {dict(Counter(job.failed[0] if job.failed else 'runs' for job in jobs))}")
    assert jobs
    assert {job.failed[0] for job in jobs if job.failed} <= set(FAILED)
    assert not random_weights or any(job.failed is None for job in jobs)
