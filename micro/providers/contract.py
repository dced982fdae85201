"""What a provider author writes: one function `build(operator, args, device) -> Kernel`, and a table row.

Built-in ones are in `bytemlperf.extensions.PROVIDERS`; a package of its own names a `Provider` in the entry-point
group `bytemlperf.micro_providers` (entry-point name = provider's name).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from micro.operators.contract import Args, Operator, Outputs, Run, Tensor, Tensors
from micro.operators.norm import EPSILON


class Refused(Exception):
    """A provider's answer to a case that it can't do (operator, shape, dtype, device), with the reason."""


def as_they_are(inputs: Tensors) -> Tensors:
    """No preparation."""
    return inputs


class Kernel(NamedTuple):
    """`run(*prepare(inputs))` is one call; `run` is timed, `prepare` (packing weights, another library's
    arrays) is not; it copies no other inputs than the operator's constants. Both must not keep results
    between calls; a result is a plain tensor or array, finished when `run` returns (on a GPU: when the
    current stream comes to its end). `note` is printed with the row: what is emulated, prepacked or
    otherwise not what a reader would expect. `writes` are inputs that `run` overwrites though the
    operator isn't in place; the note should say so."""

    run: Run
    prepare: Callable[[Tensors], Tensors] = as_they_are
    note: str = ""
    writes: tuple[int, ...] = ()


class Provider(NamedTuple):
    """`build` raises Refused for a case that it doesn't do. `packages` are distributions whose versions are kept,
    `needs` the modules that must be installed (torch always)."""

    help: str
    build: Callable[[Operator, Args, str], Kernel]
    packages: tuple[str, ...] = ("torch",)
    needs: tuple[str, ...] = ("torch",)


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


def fused_add(norm: Callable[..., None]) -> Kernel:
    """add_rms_norm by a library's `norm(x, residual, weight, epsilon)`, which makes the residual the sum and x its norm."""

    def run(x: Tensor, residual: Tensor, weight: Tensor) -> Outputs:
        norm(x, residual, weight, EPSILON)
        return residual, x

    return Kernel(run, note="in place", writes=(0, 1))
