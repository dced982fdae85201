"""Packages of kernels that may or may not be here: found without importing them, refused with a reason."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from micro.providers.contract import Refused


def need_package(module: str, name: str) -> Path:
    """The module's folder. Raises Refused where it isn't installed."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise Refused(f"{name} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def need_gpu(device: str, name: str) -> None:
    """Raises Refused on a CPU."""
    if not device.startswith("cuda"):
        raise Refused(f"{name} is for GPUs")


def need_dtype(dtype: str, known: tuple[str, ...], name: str) -> None:
    """Raises Refused for another one."""
    if dtype not in known:
        raise Refused(f"{name} has no {dtype} here")
