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


ACME = """
import os
from micro.providers.contract import Kernel, Provider, Refused

def build(operator, args, device):
    right = operator.kernel(args)
    if operator.name != "gemm":
        raise Refused(f"acme computes gemm, not {operator.name}")
    if args["dtype"] not in ("float32", "float64"):
        raise Refused(f"acme has no {args['dtype']}")
    def tiled(a, b):  # forgets the last column where 16 does not divide N
        if args["dtype"] == "float64" and args["M"] == 129:
            os.abort()
        result = right(a, b)
        if args["N"] % 16 and args["N"] > 1:
            result[:, -1] = 0
        return result
    return Kernel(tiled)

PROVIDER = Provider("acme's kernels", build, ())
"""


@pytest.fixture
def hostile_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name; it can be found by this process's children."""
    return _installed("hostile", MODULE, tmp_path, monkeypatch)


@pytest.fixture
def acme_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A vendor's package with one operator, right for shapes that are multiples of its tile."""
    return _installed("acme", ACME, tmp_path, monkeypatch)


def _installed(name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    place = tmp_path / "site"
    info = place / f"{name}_kernels-1.0.dist-info"
    info.mkdir(parents=True)
    (place / f"{name}_kernels.py").write_text(module)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-kernels\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bytemlperf.micro_providers]\n{name} = {name}_kernels:PROVIDER\n")
    monkeypatch.setenv("PYTHONPATH", f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return name
