"""oneDNN's linear with packed weights, and numpy's BLAS as a control: products only."""

from __future__ import annotations

from bytemlperf.lazy import numpy, torch
from micro.operators.contract import Args, Operator, Outputs, Tensor, Tensors
from micro.operators.gemm import group_sizes
from micro.providers.contract import Kernel, Provider, Refused

PACKED = ("gemm", "gemv", "group_gemm", "moe_gating_gemm")
NUMPY = ("gemm", "gemv", "batch_gemm", "moe_gating_gemm")


def onednn(operator: Operator, args: Args, device: str) -> Kernel:
    """oneDNN's matrix product with weights packed beforehand, as inference servers hold them; AMX where the CPU has it."""
    if operator.name not in PACKED:
        raise Refused(f"oneDNN's packed linear computes {', '.join(PACKED)}, not {operator.name}")
    if device != "cpu" or not torch.backends.mkldnn.is_available():
        raise Refused("oneDNN is for CPUs, in a torch that was built with it")
    if args["dtype"] not in ("float32", "bfloat16", "float16"):
        raise Refused(f"oneDNN's linear has no {args['dtype']}")
    if args["dtype"] == "float16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise Refused("this CPU has no float16 instructions that oneDNN uses")
    if args.get("dst_dtype", args["dtype"]) != args["dtype"]:
        raise Refused(f"oneDNN's linear gives {args['dtype']}, not {args['dst_dtype']}")
    if operator.name == "group_gemm":
        return _packed_groups(args)
    return _packed_matrix() if operator.name == "gemv" else _packed_weight(turned=operator.name == "moe_gating_gemm")


def _linear(x: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _pack(weight: Tensor, rows: int) -> Tensor:
    """weight[out, in], for products of `rows` rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


def _packed_weight(*, turned: bool) -> Kernel:
    linear = torch.ops.mkldnn._linear_pointwise

    def prepare(inputs: Tensors) -> Tensors:
        a, b = inputs
        return a, _pack(b if turned else b.t(), a.shape[0])

    def run(a: Tensor, packed: Tensor) -> Outputs:
        return linear(a, packed, None, "none", [], "")

    return Kernel(run, prepare, "weight packed beforehand")


def _packed_matrix() -> Kernel:
    def prepare(inputs: Tensors) -> Tensors:
        a, x = inputs
        return x[None], _pack(a, 1)

    def run(x: Tensor, packed: Tensor) -> Outputs:
        return _linear(x, packed)[0]

    return Kernel(run, prepare, "matrix packed beforehand")


def _packed_groups(args: Args) -> Kernel:
    used, cat = [(group, size) for group, size in enumerate(group_sizes(args)) if size], torch.cat

    def prepare(inputs: Tensors) -> Tensors:
        a, b = inputs
        return a.split([size for _, size in used]), [_pack(b[group].t(), size) for group, size in used]

    def run(parts: Tensors, packed: Tensors) -> Outputs:
        return cat([_linear(rows, weight) for rows, weight in zip(parts, packed, strict=True)])

    return Kernel(run, prepare, "weights packed beforehand")


def numpy_blas(operator: Operator, args: Args, device: str) -> Kernel:
    """Products in float32 and float64 through numpy: another library, another thread pool, the same tensors' memory."""
    if operator.name not in NUMPY:
        raise Refused(f"the numpy control computes {', '.join(NUMPY)}, not {operator.name}")
    if device != "cpu":
        raise Refused("numpy is for CPUs")
    if {args["dtype"], args.get("dst_dtype", args["dtype"])} - {"float32"} and args["dtype"] != "float64":
        raise Refused(f"numpy's BLAS has no {args['dtype']}")
    turned = operator.name == "moe_gating_gemm"

    def prepare(inputs: Tensors) -> Tensors:
        a, b = (tensor.numpy() for tensor in inputs)
        return a, b.T if turned else b

    return Kernel(numpy.matmul, prepare)


ONEDNN = Provider("oneDNN's linear with packed weights (AMX where there is one)", onednn)
NUMPY_BLAS = Provider("numpy's BLAS, a control", numpy_blas, ("numpy",))
