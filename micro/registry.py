"""The table of all operators. A new family adds its rows here and nowhere else."""

from __future__ import annotations

from difflib import get_close_matches

from bytemlperf.errors import UserError
from micro.collectives.operators import COLLECTIVES
from micro.operators import (
    attention,
    convolution,
    elementwise,
    gemm,
    index,
    kv_cache,
    llm_norm,
    llm_quant,
    moe,
    moe_gemm,
    norm,
    quant_gemm,
    reduction,
)
from micro.operators.contract import Operator
from micro.operators.stream import STREAM

OPERATORS: dict[str, Operator] = {
    **gemm.GEMMS,
    "conv2d": convolution.CONV2D,
    "softmax": norm.SOFTMAX,
    "layer_norm": norm.LAYER_NORM,
    "rms_norm": norm.RMS_NORM,
    "batch_norm": norm.BATCH_NORM,
    **elementwise.ELEMENTWISE,
    **reduction.REDUCTIONS,
    **index.INDEXING,
    **llm_norm.LLM_NORMS,
    **llm_quant.LLM_QUANTS,
    **quant_gemm.QUANT_GEMMS,
    **kv_cache.KV_CACHE,
    **attention.ATTENTION,
    **moe.MOE,
    **moe_gemm.MOE_GEMMS,
    **STREAM,
    **COLLECTIVES,
}


def find_operator(name: str) -> Operator:
    """By name. Raises UserError with the nearest names."""
    if name not in OPERATORS:
        near = get_close_matches(name, OPERATORS, n=3)
        raise UserError(
            f"there is no operator '{name}'", f"did you mean {' or '.join(near)}?" if near else "list them with: bmp micro list"
        )
    return OPERATORS[name]
