"""torch's own kernels: eager, torch.compile, and that with Triton's products."""

from __future__ import annotations

from typing import Any

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Operator
from micro.providers.contract import Kernel, Provider, Refused
from micro.providers.installed import need_gpu, need_package

TF32_FIRST_CAPABILITY = (8, 0)


def eager(operator: Operator, args: Args, device: str) -> Kernel:
    """The operator's own torch expression, as torch dispatches it."""
    allow_dtypes(args, device)
    return Kernel(operator.kernel(args), note=operator.emulation(args, device))


def compiled(operator: Operator, args: Args, device: str) -> Kernel:
    """The same expression through torch.compile; compiling happens before the correctness check."""
    allow_dtypes(args, device)
    torch._dynamo.reset()
    return Kernel(torch.compile(operator.kernel(args), dynamic=False), note=operator.emulation(args, device))


def triton(operator: Operator, args: Args, device: str) -> Kernel:
    """torch.compile that writes every product as a Triton kernel too, the best of several configurations."""
    need_package("triton", "Triton")
    need_gpu(device, "Triton")
    allow_dtypes(args, device)
    torch._dynamo.reset()
    options: dict[str, Any] = {"max_autotune": True, "max_autotune_gemm_backends": "TRITON"}
    return Kernel(torch.compile(operator.kernel(args), dynamic=False, options=options), note=operator.emulation(args, device))


def allow_dtypes(args: Args, device: str) -> None:
    """Set TF32 as the case asks. Raises Refused for a dtype that the device lacks."""
    wants_tf32 = "tfloat32" in args.values()
    if wants_tf32 and device == "cpu":
        raise Refused("CPUs have no tfloat32")
    if wants_tf32 and torch.cuda.get_device_capability(device) < TF32_FIRST_CAPABILITY:
        raise Refused("this GPU has no tfloat32")
    torch.set_float32_matmul_precision("high" if wants_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = wants_tf32


TORCH = Provider("torch eager, as torch dispatches it", eager)
TORCH_COMPILE = Provider("torch.compile of the same expression", compiled)
TRITON = Provider("torch.compile with Triton's products, on GPUs", triton, ("torch", "triton"), ("torch", "triton"))
