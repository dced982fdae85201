"""torch's own kernels: eager, torch.compile, oneDNN's linear."""

from __future__ import annotations

from typing import Any

from micro.operators.contract import Args, Operator, Tensors
from micro.providers.contract import Kernel, Refused

TF32_FIRST_CAPABILITY = (8, 0)


def eager(operator: Operator, args: Args, device: str) -> Kernel:
    """The operator's own torch expression, as torch dispatches it."""
    allow_dtypes(args, device)
    return Kernel(operator.kernel(args), note=operator.emulation(args, device))


def compiled(operator: Operator, args: Args, device: str) -> Kernel:
    """The same expression through torch.compile; compiling happens before the correctness check."""
    import torch

    allow_dtypes(args, device)
    torch._dynamo.reset()
    return Kernel(torch.compile(operator.kernel(args), dynamic=False), note=operator.emulation(args, device))


def onednn(operator: Operator, args: Args, device: str) -> Kernel:
    """oneDNN's matrix product with B packed beforehand, as inference servers hold weights; AMX where the CPU has it."""
    import torch

    if operator.name != "gemm":
        raise Refused(f"oneDNN's packed linear computes gemm, not {operator.name}")
    if device != "cpu" or not torch.backends.mkldnn.is_available():
        raise Refused("oneDNN is for CPUs, in a torch that was built with it")
    if args["dtype"] not in ("float32", "bfloat16", "float16"):
        raise Refused(f"oneDNN's linear has no {args['dtype']}")
    if args["dtype"] == "float16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise Refused("this CPU has no float16 instructions that oneDNN uses")
    linear = torch.ops.mkldnn._linear_pointwise

    def prepare(inputs: Tensors) -> Tensors:
        a, b = inputs
        return a, torch.ops.mkldnn._reorder_linear_weight(b.t().contiguous(), args["M"])

    def run(a: Any, packed: Any) -> Any:
        return linear(a, packed, None, "none", [], "")

    return Kernel(run, prepare, "B packed beforehand")


def allow_dtypes(args: Args, device: str) -> None:
    """Set TF32 as the case asks. Raises Refused for a dtype that the device lacks."""
    import torch

    wants_tf32 = "tfloat32" in args.values()
    if wants_tf32 and device == "cpu":
        raise Refused("CPUs have no tfloat32")
    if wants_tf32 and torch.cuda.get_device_capability(device) < TF32_FIRST_CAPABILITY:
        raise Refused("this GPU has no tfloat32")
    torch.set_float32_matmul_precision("high" if wants_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = wants_tf32
