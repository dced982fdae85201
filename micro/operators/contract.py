"""What an operator author writes: one `Operator` value, and a row in `registry.FAMILIES`.

An operator says what is computed, never how fast a machine does it: the arguments of a case, random
inputs for them, the analytic cost, a reference in higher precision and how far a result may be from
it, and the plain torch expression that every torch-based provider starts from. A family module
imports torch inside functions only, so that listing and validating stay quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from bytemlperf.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor as Tensor
    from torch import dtype as TorchDtype
else:
    Tensor = Any  # torch's, which takes a second to import


class Dtype(NamedTuple):
    """`bits` per value in memory; `epsilon` is the gap after 1.0 (0 for integers); `torch` its attribute in torch."""

    bits: int
    epsilon: float
    torch: str


DTYPES: dict[str, Dtype] = {
    "float64": Dtype(64, 2.0**-52, "float64"),
    "float32": Dtype(32, 2.0**-23, "float32"),
    "tfloat32": Dtype(32, 2.0**-10, "float32"),
    "float16": Dtype(16, 2.0**-10, "float16"),
    "bfloat16": Dtype(16, 2.0**-7, "bfloat16"),
    "float8_e4m3": Dtype(8, 2.0**-3, "float8_e4m3fn"),
    "float8_e5m2": Dtype(8, 2.0**-2, "float8_e5m2"),
    "int64": Dtype(64, 0.0, "int64"),
    "int32": Dtype(32, 0.0, "int32"),
    "int8": Dtype(8, 0.0, "int8"),
    "uint8": Dtype(8, 0.0, "uint8"),
    "int4": Dtype(4, 0.0, "uint8"),
}

ALIASES = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "tfloat32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp8": "float8_e4m3",
    "float8": "float8_e4m3",
    "float8_e4m3fn": "float8_e4m3",
}

FLOATS = ("float32", "float16", "bfloat16", "tfloat32", "float64")
"""What most operators take; a provider refuses what its device lacks."""


def canonical(name: str) -> str | None:
    """The name used here, None where it is no dtype."""
    name = ALIASES.get(name.lower(), name.lower())
    return name if name in DTYPES else None


def size_bytes(dtype: str, count: int) -> int:
    """Memory of `count` values, rounded up to whole bytes."""
    return -(-count * DTYPES[dtype].bits // 8)


def torch_dtype(dtype: str) -> TorchDtype:
    """torch's dtype that holds it."""
    return getattr(torch, DTYPES[dtype].torch)


Args = Mapping[str, Any]
"""A case's validated arguments: every declared argument is there."""
Tensors = tuple[Tensor, ...]
"""Inputs in the order that kernels take them, or outputs."""
Outputs: TypeAlias = Tensor | Tensors
"""What one call returns."""
Run = Callable[..., Outputs]
"""One call, of the inputs."""


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


class SameAs(NamedTuple):
    """A default: the value of an argument declared before, where this one's choices have it; else `otherwise`."""

    argument: str
    otherwise: str

    def __repr__(self) -> str:
        return f"{self.argument}'s"


class Argument(NamedTuple):
    """One argument. Integers are bounded by `low` and `high`; dtypes and choices by `choices`.

    Kinds: int, float, bool, dtype (aliases such as bf16 are resolved), choice (a text), ints (a list
    of integers), any (the operator's own `check` looks at it).
    """

    name: str
    kind: Literal["int", "float", "bool", "dtype", "choice", "ints", "any"]
    help: str
    default: object = REQUIRED
    low: int = 1
    high: int = 1 << 40
    choices: tuple[str, ...] = ()


def dtype_argument(choices: tuple[str, ...] = FLOATS, *, name: str = "dtype", default: str | SameAs = "float32") -> Argument:
    """The usual dtype argument."""
    return Argument(name, "dtype", "number format", default, choices=choices)


class Cost(NamedTuple):
    """Analytic cost of one call. `flops` counts a multiply-add as two. `read_bytes` and `write_bytes` are
    what a perfect cache would move; `footprint_bytes` what inputs and outputs occupy, where that is more
    (an embedding table of which few rows are read); `flops_dtype` says whose peak the FLOPs count against."""

    flops: int
    read_bytes: int
    write_bytes: int
    footprint_bytes: int = 0
    flops_dtype: str = ""

    @property
    def resident_bytes(self) -> int:
        """Memory that one set of inputs and outputs takes."""
        return max(self.footprint_bytes, self.read_bytes + self.write_bytes)


class Tolerance(NamedTuple):
    """A value passes when |value − reference| ≤ absolute + relative·|reference| + of_scale·s, where s is the root mean square
    of the reference's row: how large it is depends on the shape, and rounding follows it. (0, 0) asks for equality.

    `noise` above 0 bounds what all values of a row are off together, where single ones may cancel: the root mean square of the
    errors is at most absolute + noise·s, and no factor runs through all of them (`micro.measure.correctness`)."""

    relative: float
    absolute: float
    of_scale: float = 0.0
    noise: float = 0.0


EXACT = Tolerance(0.0, 0.0)
HALF_UNIT = 0.51
"""Rounding to the nearest is off by half a unit at most, where a binade begins; and a little for the float32 before it."""

RMS_ROUNDING = 0.4
"""In units, the root mean square of one rounding's error over a row, twice: it is 0.15 to 0.3 by where values lie in a binade."""

SMALLEST = {"float16": 2.0**-25}
"""Half a step of the subnormal numbers, where results are that small."""


class Sample(NamedTuple):
    """A reference of some rows (first dimension) only, where all of them would cost too much."""

    rows: Tensor  # int64
    expected: Tensor


Expected: TypeAlias = Tensor | Sample | tuple[Tensor | Sample, ...]
"""What a reference returns."""


class Maker:
    """Seeded random inputs: the same values on every device. Never zeros, which some hardware adds faster."""

    def __init__(self, seed: int, device: str) -> None:
        self._torch, self._device = torch, device
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: str = "float32", scale: float = 1.0) -> Tensor:
        """Standard normal values times `scale`."""
        values = self._torch.randn(shape, generator=self._generator)
        return self._to(values.mul_(scale) if scale != 1.0 else values, dtype)

    def uniform(self, low: float, high: float, *shape: int, dtype: str = "float32") -> Tensor:
        """Values in [low, high)."""
        return self._to(self._torch.rand(shape, generator=self._generator).mul_(high - low).add_(low), dtype)

    def integers(self, low: int, high: int, *shape: int, dtype: str = "int64") -> Tensor:
        """Integers in [low, high)."""
        return self._torch.randint(low, high, shape, generator=self._generator, dtype=torch_dtype(dtype)).to(self._device)

    def values(self, values: object, dtype: str = "int64") -> Tensor:
        """These very values, a list or nested lists."""
        return self._to(self._torch.as_tensor(values), dtype)

    def permutation(self, count: int) -> Tensor:
        """0 to count − 1 in random order, int64."""
        return self._torch.randperm(count, generator=self._generator).to(self._device)

    def _to(self, values: Tensor, dtype: str) -> Tensor:
        return values.to(device=self._device, dtype=torch_dtype(dtype))


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator. `inputs(args, make)` gives the tensors in the order in which `kernel(args)(*inputs)`
    takes them; a kernel returns a tensor or a tuple of them (one that writes in place returns what it
    wrote). `reference(args, inputs)` returns the same in higher precision (a `Sample` of rows where all
    would cost too much) and leaves the inputs as they are. `cost`, `check` and `tolerance` need no torch.

    `check(args)` returns what is impossible about a combination of arguments, "" where nothing is.
    `comparable(args, inputs, outputs)` makes outputs comparable that may differ and be right (the
    order of equal values). `runner` names the case runner: "worker" (one process, one device) or "ranks" (collectives).
    `aliases` are other names of arguments in workload files (num_tokens for batch_size).
    `constant(args)` are places of inputs that stay the same from call to call where the operator is used (weights, tables, a
    cache): a provider may lay them out anew in `prepare`, and reads all others in the call.
    `writes` are places of inputs that a kernel may overwrite, because the operator is in place or is given its output.
    `emulation(args, device)` says what `kernel` computes in another number format than the arguments
    name, because torch has no kernel for it on that device; the row's note repeats it. "" where nothing is.
    """

    name: str
    help: str
    arguments: tuple[Argument, ...]
    inputs: Callable[[Args, Maker], Tensors]
    kernel: Callable[[Args], Run]
    reference: Callable[[Args, Any], Expected]
    cost: Callable[[Args], Cost]
    tolerance: Callable[[Args], Tolerance | tuple[Tolerance, ...]] = field(default=lambda _args: EXACT)
    check: Callable[[Args], str] = field(default=lambda _args: "")
    comparable: Callable[[Args, Tensors, Outputs], Outputs] | None = None
    runner: str = "worker"
    constant: Callable[[Args], tuple[int, ...]] = field(default=lambda _args: ())
    writes: tuple[int, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    emulation: Callable[[Args, str], str] = field(default=lambda _args, _device: "")


def several(outputs: Expected) -> tuple[Any, ...]:
    """What a kernel or a reference returned, one or more; a Sample is one, though a tuple too."""
    return tuple(outputs) if isinstance(outputs, tuple | list) and not isinstance(outputs, Sample) else (outputs,)


def units_of(dtype: str) -> tuple[float, float]:
    """The rounding unit of a result of fewer bits than what is computed in (0 where it has as many), and that of the latter."""
    compute = DTYPES["float64" if dtype == "float64" else "float32"].epsilon
    return (DTYPES[dtype].epsilon if DTYPES[dtype].epsilon > compute else 0.0), compute


def rounding(dtype: str, *, roundings: int = 2, units: float = 4.0, scale: float = 1.0, cancels: int = 0) -> Tolerance:
    """Computed in float32 at least, with an error of some of its `units` (as much again of a typical value `scale`), and rounded
    to `dtype` so many times: once where a kernel keeps float32 to the end, half a unit each. `cancels` of them are of terms as
    large as the row's values, which may cancel."""
    unit, compute = units_of(dtype)
    return Tolerance(
        relative=roundings * unit * HALF_UNIT + units * compute,
        absolute=units * compute * scale + roundings * SMALLEST.get(dtype, 0.0),
        of_scale=cancels * unit,
        noise=RMS_ROUNDING * unit * (roundings + cancels) ** 0.5 + units * compute,
    )


def additions(dtype: str, count: int) -> Tolerance:
    """A sum of `count` terms of random sign in `dtype` itself, rounded at each addition: errors grow with its root."""
    unit = DTYPES[dtype].epsilon
    return Tolerance(2 * unit * HALF_UNIT, SMALLEST.get(dtype, 0.0), 1.5 * unit * count**0.5, RMS_ROUNDING * unit * (count + 1) ** 0.5)


def wide(tensors: Tensors) -> Tensors:
    """float64 copies of floating tensors for a reference; others as they are."""
    return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors)
