"""numpy's BLAS as a control: another library, another thread pool, the same tensors' memory."""

from __future__ import annotations

from micro.operators.contract import Args, Operator, Tensors
from micro.providers.contract import Kernel, Refused


def numpy_blas(operator: Operator, args: Args, device: str) -> Kernel:
    """gemm in float32 and float64 through numpy."""
    import numpy

    if operator.name != "gemm":
        raise Refused(f"the numpy control computes gemm, not {operator.name}")
    if device != "cpu":
        raise Refused("numpy is for CPUs")
    if args["dtype"] not in ("float32", "float64"):
        raise Refused(f"numpy's BLAS has no {args['dtype']}")

    def prepare(inputs: Tensors) -> Tensors:
        return tuple(tensor.numpy() for tensor in inputs)

    return Kernel(numpy.matmul, prepare)
