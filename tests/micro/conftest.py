"""A provider package of another vendor, found by its entry point, that misbehaves in every way there is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MODULE = """
import os, time
from micro.providers.contract import Kernel, Provider, Refused

def build(operator, args, device):
    right = operator.kernel(args)
    def hostile(*inputs):
        match args["M"]:
            case 1: os.abort()
            case 2: time.sleep(3600)
            case 3: return right(*inputs) * 1.01
            case 4: raise RuntimeError("no such kernel")
            case 5: os._exit(3)
            case 6: print("noise on standard output", flush=True)
        return right(*inputs)
    if args["M"] == 7:
        raise Refused("M must not be 7")
    return Kernel(hostile, note="a test")

PROVIDER = Provider("misbehaves", build, ())
"""


@pytest.fixture
def hostile_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name; it can be found by this process's children."""
    place = tmp_path / "site"
    (place / "hostile_kernels-1.0.dist-info").mkdir(parents=True)
    (place / "hostile_kernels.py").write_text(MODULE)
    (place / "hostile_kernels-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-kernels\nVersion: 1.0\n")
    (place / "hostile_kernels-1.0.dist-info" / "entry_points.txt").write_text(
        "[bytemlperf.micro_providers]\nhostile = hostile_kernels:PROVIDER\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return "hostile"
