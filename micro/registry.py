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
    stream,
)
from micro.operators.contract import Operator

FAMILIES = (
    gemm.GEMMS,
    (convolution.CONV2D,),
    norm.NORMS,
    elementwise.ELEMENTWISE,
    reduction.REDUCTIONS,
    index.INDEXING,
    llm_norm.LLM_NORMS,
    llm_quant.LLM_QUANTS,
    quant_gemm.QUANT_GEMMS,
    kv_cache.KV_CACHE,
    tuple(attention.ATTENTION.values()),
    moe.MOE,
    moe_gemm.MOE_GEMMS,
    stream.STREAM,
    tuple(COLLECTIVES.values()),
)
OPERATORS: dict[str, Operator] = {operator.name: operator for family in FAMILIES for operator in family}


def find_operator(name: str) -> Operator:
    """By name. Raises UserError with the nearest names."""
    if name not in OPERATORS:
        near = get_close_matches(name, OPERATORS, n=3)
        raise UserError(
            f"there is no operator '{name}'", f"did you mean {' or '.join(near)}?" if near else "list them with: bmp micro list"
        )
    return OPERATORS[name]
