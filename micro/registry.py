"""The table of all operators. A new family adds its rows here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from bytemlperf.errors import UserError
from micro.collectives.operators import COLLECTIVES
from micro.operators import (
    attention,
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
)
from micro.operators.contract import Operator

FAMILIES: dict[str, Iterable[Operator]] = {
    "gemm": gemm.GEMMS,
    "convolution": (gemm.CONV2D,),
    "norm": norm.NORMS,
    "elementwise": elementwise.ELEMENTWISE,
    "reduction": norm.REDUCTIONS,
    "index": index.INDEXING,
    "llm": (*llm_norm.LLM_NORMS, *llm_quant.LLM_QUANTS),
    "llm gemm": quant_gemm.QUANT_GEMMS,
    "attention": (*kv_cache.KV_CACHE, *attention.ATTENTION.values()),
    "moe": (*moe.MOE, *moe_gemm.MOE_GEMMS),
    "stream": elementwise.STREAM,
    "collective": COLLECTIVES.values(),
}
OPERATORS = {operator.name: operator for operators in FAMILIES.values() for operator in operators}


def find_operator(name: str) -> Operator:
    """By name. Raises UserError with the nearest names."""
    if name not in OPERATORS:
        near = get_close_matches(name, OPERATORS, n=3)
        raise UserError(
            f"there is no operator '{name}'", f"did you mean {' or '.join(near)}?" if near else "list them with: bmp micro list"
        )
    return OPERATORS[name]
