"""Megatron-Core on a CPU: the stand-ins for CUDA that it needs, each for one place of megatron-core 0.16.

    torch.cuda.current_device()      is the CPU: its buffers are made "on the current device"
    device="cuda", Tensor.cuda()     is the CPU, inside `on_cpu()`: the pipeline schedules count tokens there
    Tensor.type()                    names the CUDA type, inside `on_cpu()`: gradient clipping asserts it
    CudaRNGStatesTracker             forks nothing: there is no dropout here, and weights are drawn on the CPU
    moe_utils.te_general_gemm        is None where Transformer Engine is missing: the router reads it unasked

Nothing of this is used on GPUs.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any


def install() -> None:
    """Put the stand-ins in place, for this process and for good. Before a model is built."""
    import torch
    from megatron.core.tensor_parallel import random as megatron_random
    from megatron.core.transformer.moe import moe_utils

    cpu = torch.device("cpu")
    torch.cuda.current_device = lambda: cpu

    class CpuStatesTracker(megatron_random.CudaRNGStatesTracker):  # type: ignore[misc,name-defined,no-any-unimported]
        def fork(self, *_name: str) -> Any:
            return nullcontext()

        def add(self, _name: str, _seed: int) -> None:
            return None

    megatron_random._CUDA_RNG_STATE_TRACKER = CpuStatesTracker()
    megatron_random._CUDA_RNG_STATE_TRACKER_INITIALIZED = True
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


def on_cpu() -> Any:
    """A context in which what is asked of `cuda` is done on the CPU."""
    import torch
    from torch.overrides import TorchFunctionMode

    cpu = torch.device("cpu")

    class CpuForCuda(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.cuda:
                return args[0]
            if func is torch.Tensor.type and len(args) == 1 and not kwargs:
                return func(*args).replace("torch.", "torch.cuda.", 1)
            device = (kwargs or {}).get("device")
            if device is not None and torch.device(device).type == "cuda":
                kwargs = {**kwargs, "device": cpu}
            return func(*args, **(kwargs or {}))

    return CpuForCuda()
