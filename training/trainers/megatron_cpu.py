"""Megatron-Core on a CPU: the stand-ins for CUDA that it needs, each for one place of megatron-core 0.16.

    torch.cuda.current_device()      is the CPU: its buffers are made "on the current device"
    device="cuda", Tensor.cuda()     is the CPU, inside `OnCpu()`: the pipeline schedules count tokens there
    Tensor.type()                    names the CUDA type, inside `OnCpu()`: gradient clipping asserts it
    CudaRNGStatesTracker             forks nothing: there is no dropout here, and weights are drawn on the CPU
    moe_utils.te_general_gemm        is None where Transformer Engine is missing: the router reads it unasked

Nothing of this is used on GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


def install() -> None:
    """Put the stand-ins in place, for this process and for good. Before a model is built."""
    from megatron.core.tensor_parallel import random as megatron_random
    from megatron.core.transformer.moe import moe_utils

    torch.cuda.current_device = lambda: CPU

    class CpuStatesTracker(megatron_random.CudaRNGStatesTracker):  # type: ignore[misc,name-defined,no-any-unimported]
        def fork(self, *_name: str) -> AbstractContextManager[None]:
            return nullcontext()

        def add(self, _name: str, _seed: int) -> None:
            return None

    megatron_random._CUDA_RNG_STATE_TRACKER = CpuStatesTracker()
    megatron_random._CUDA_RNG_STATE_TRACKER_INITIALIZED = True
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


class OnCpu(TorchFunctionMode):  # type: ignore[misc]
    """A context in which what is asked of `cuda` is done on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.", 1)
        given = dict(kwargs or {})
        if given.get("device") is not None and torch.device(given["device"]).type == "cuda":
            given["device"] = CPU
        return func(*args, **given)
