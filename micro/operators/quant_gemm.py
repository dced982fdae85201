"""Products of a transformer's layers with quantised operands, and the gate of a mixture of experts.

x[M,K] with a float32 scale for each token, weight[N,K] with one for each output channel: (x · weightᵀ) · both scales,
to dst_dtype. int8 sums are exact in int32; int4 weights lie two to a byte. Floating operands have no scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, SameAs, Sample, Tensors, dtype_argument
from micro.operators.dtypes import size_bytes, torch_dtype
from micro.operators.gemm import spread_rows
from micro.operators.llm_norm import HIDDEN, SP_SIZE, TOKENS, check_tokens, tokens_of_rank
from micro.operators.product import (
    emulation,
    exact_scaled_product,
    gemm_tolerance,
    matrix,
    scaled_product,
    scales,
)

OUTPUTS = ("bfloat16", "float16", "float32")
SCALED = ("int8", "float8_e4m3")
OPERANDS = (*SCALED, *OUTPUTS)
NEW_HIDDEN = Argument("new_hidden_size", "int", "values of a resulting token")
QUANT_DTYPES = (
    dtype_argument(OPERANDS, default="int8"),
    dtype_argument((*OPERANDS, "int4"), name="w_dtype", default=SameAs("dtype", "int8")),
    dtype_argument(OPERANDS, name="compute_dtype", default=SameAs("dtype", "int8")),
    dtype_argument(OUTPUTS, name="dst_dtype", default="bfloat16"),
)
SCALE = "float32"


def check_quant_dtypes(args: Args) -> str:
    """Which operands go together."""
    dtype, weight, compute = args["dtype"], args.get("w_dtype", args["dtype"]), args.get("compute_dtype", args["dtype"])
    if weight != dtype and not (dtype == "int8" and weight == "int4"):
        return f"w_dtype={weight} does not go with dtype={dtype}; int4 goes with int8, others with themselves"
    if compute != dtype:
        return f"compute_dtype={compute} is not dtype={dtype}"
    return "hidden_size is odd, int4 lies in pairs" if weight == "int4" and args["hidden_size"] % 2 else ""


def operand(make: Maker, dtype: str, *shape: int) -> tuple[Any, Any]:
    """A random matrix and the scales of its rows (None where it has none)."""
    return matrix(make, dtype, *shape), scales(make, dtype, *shape[:-1]) if dtype in (*SCALED, "int4") else None


def some(*tensors: Any) -> Tensors:
    """Those that are there."""
    return tuple(tensor for tensor in tensors if tensor is not None)


def weight_places(args: Args) -> tuple[int, ...]:
    """Where the weight, its scale and a bias are among the inputs, behind x and its scale."""
    return (2, 3, 4) if args["dtype"] in SCALED else (1, 2)


def four(tensors: Tensors) -> Tensors:
    """x, its scale, weight, its scale; the scales None where there are only two tensors."""
    return tensors if len(tensors) == 4 else (tensors[0], None, tensors[1], None)


def operand_bytes(dtype: str, rows: int, width: int) -> int:
    """Of `operand`."""
    return size_bytes(dtype, rows * width) + (size_bytes(SCALE, rows) if dtype in (*SCALED, "int4") else 0)


def _tokens_operands(args: Args, make: Maker) -> Tensors:
    rows, width, out = tokens_of_rank(args), args["hidden_size"], args["new_hidden_size"]
    tensors = some(*operand(make, args["dtype"], rows, width), *operand(make, args["w_dtype"], out, width))
    return (*tensors, make.normal(out, dtype=args["dst_dtype"])) if args["has_bias"] else tensors


def _matmul_kernel(args: Args) -> Callable[..., Any]:
    dst_dtype, biased, ranks = args["dst_dtype"], args["has_bias"], args["sp_size"] if args["transpose_o"] else 1

    def quant_matmul(*tensors: Any) -> Any:
        operands, bias = (tensors[:-1], tensors[-1]) if biased else (tensors, None)
        x, x_scale, weight, weight_scale = four(operands)
        result = scaled_product(x, x_scale, weight, weight_scale, dst_dtype)
        return _by_rank(result if bias is None else result + bias, ranks)

    return quant_matmul


def _by_rank(result: Any, ranks: int) -> Any:
    """[tokens, out] with the columns of each rank together: [ranks · tokens, out / ranks]."""
    return result if ranks == 1 else result.unflatten(1, (ranks, -1)).transpose(0, 1).flatten(0, 1)


def _matmul_reference(args: Args, inputs: Tensors) -> Any:
    operands, bias = (inputs[:-1], inputs[-1]) if args["has_bias"] else (inputs, None)
    x, x_scale, weight, weight_scale = four(operands)
    ranks = args["sp_size"] if args["transpose_o"] else 1
    rows = spread_rows(x.shape[0], 2 * args["hidden_size"] * args["new_hidden_size"]) if ranks == 1 else None
    if rows is not None:
        x, x_scale = x[rows.to(x.device)], None if x_scale is None else x_scale[rows.to(x.device)]
    result = exact_scaled_product(x, x_scale, weight, weight_scale)
    result = _by_rank(result if bias is None else result + bias.double(), ranks)
    return result if rows is None else Sample(rows, result)


def _matmul_cost(args: Args) -> Cost:
    rows, width, out = tokens_of_rank(args), args["hidden_size"], args["new_hidden_size"]
    read = operand_bytes(args["dtype"], rows, width) + operand_bytes(args["w_dtype"], out, width)
    read += size_bytes(args["dst_dtype"], out) if args["has_bias"] else 0
    return Cost(2 * rows * width * out, read, size_bytes(args["dst_dtype"], rows * out), flops_dtype=args["compute_dtype"])


def _matmul_check(args: Args) -> str:
    if args["transpose_o"] and args["new_hidden_size"] % args["sp_size"]:
        return f"sp_size={args['sp_size']} does not divide new_hidden_size={args['new_hidden_size']}"
    return check_quant_dtypes(args) or check_tokens(args)


_W8A8, _W4A8, _FP8 = (["int8", "int8", "int8"], ["int8", "int4", "int8"], ["float8"] * 3)


def _matmul(name: str, help_: str, basic: dict[str, Any]) -> Operator:
    return Operator(
        name=name,
        family="llm gemm",
        constant=weight_places,
        help=help_,
        arguments=(
            TOKENS,
            HIDDEN,
            NEW_HIDDEN,
            SP_SIZE,
            Argument("has_bias", "bool", "add a bias in dst_dtype", False),
            Argument("transpose_o", "bool", "lay the result out by rank of sp_size", False),
            *QUANT_DTYPES,
        ),
        inputs=_tokens_operands,
        kernel=_matmul_kernel,
        reference=_matmul_reference,
        cost=_matmul_cost,
        tolerance=lambda args: gemm_tolerance(args["dst_dtype"], args["hidden_size"], args["w_dtype"]),
        check=_matmul_check,
        basic=(basic,),
        emulation=emulation,
    )


QUANT_MATMUL = _matmul(
    "quant_matmul",
    "x[num_tokens/sp_size, hidden_size] · weight[new_hidden_size, hidden_size]ᵀ with scales by token and by channel",
    {"dtype.w_dtype.compute_dtype": [_W8A8, _W4A8, _FP8], "num_tokens": 64, "hidden_size.new_hidden_size": [[1024, 1024]]},
)
MOE_QUANT_MATMUL = _matmul(
    "moe_quant_matmul",
    "quant_matmul of the shared experts",
    {"dtype.w_dtype.compute_dtype": [_W8A8], "num_tokens": 64, "hidden_size.new_hidden_size": [[1024, 1024]]},
)


# --- moe_gating_gemm ------------------------------------------------------------------------------------------


def _gating_inputs(args: Args, make: Maker) -> Tensors:
    rows, width, dtype = tokens_of_rank(args), args["hidden_size"], args["dtype"]
    return make.normal(rows, width, dtype=dtype), make.normal(args["num_experts"], width, dtype=dtype)


def _gating_kernel(args: Args) -> Callable[..., Any]:
    result = torch_dtype(args["dst_dtype"])

    def moe_gating_gemm(x: Any, weight: Any) -> Any:
        return (x @ weight.t()).to(result)

    return moe_gating_gemm


def _gating_reference(args: Args, inputs: Tensors) -> Any:
    x, weight = inputs
    rows = spread_rows(x.shape[0], 2 * args["hidden_size"] * args["num_experts"])
    if rows is None:
        return x.double() @ weight.double().t()
    return Sample(rows, x[rows.to(x.device)].double() @ weight.double().t())


def _gating_cost(args: Args) -> Cost:
    rows, width, experts = tokens_of_rank(args), args["hidden_size"], args["num_experts"]
    read, written = size_bytes(args["dtype"], (rows + experts) * width), size_bytes(args["dst_dtype"], rows * experts)
    return Cost(2 * rows * width * experts, read, written, flops_dtype=args["compute_dtype"])


def _gating_check(args: Args) -> str:
    if args["compute_dtype"] != args["dtype"]:
        return f"compute_dtype={args['compute_dtype']} is not dtype={args['dtype']}"
    return check_tokens(args)


MOE_GATING_GEMM = Operator(
    name="moe_gating_gemm",
    constant=lambda _args: (1,),
    family="llm gemm",
    help="x[num_tokens/sp_size, hidden_size] · weight[num_experts, hidden_size]ᵀ",
    arguments=(
        TOKENS,
        HIDDEN,
        Argument("num_experts", "int", "experts"),
        SP_SIZE,
        dtype_argument(OUTPUTS),
        dtype_argument(OUTPUTS, name="compute_dtype", default=SameAs("dtype", "float32")),
        dtype_argument(OUTPUTS, name="dst_dtype"),
    ),
    inputs=_gating_inputs,
    kernel=_gating_kernel,
    reference=_gating_reference,
    cost=_gating_cost,
    tolerance=lambda args: max(gemm_tolerance(args[name], args["hidden_size"]) for name in ("dtype", "dst_dtype")),
    check=_gating_check,
    basic=({"num_tokens": [256], "hidden_size.num_experts": [[2048, 128]]},),
)


# --- quant_group_gemm_reduce_sum ------------------------------------------------------------------------------


def _sum_inputs(args: Args, make: Maker) -> Tensors:
    ranks, rows, width, out = args["sp_size"], tokens_of_rank(args), args["hidden_size"], args["new_hidden_size"]
    x, x_scale = operand(make, args["dtype"], ranks, rows, width)
    weight = matrix(make, args["dtype"], *((ranks, out, width) if args["trans_w"] else (ranks, width, out)))
    return x, x_scale, weight, scales(make, args["dtype"], ranks, out)


def _sum_kernel(args: Args) -> Callable[..., Any]:
    import torch

    result, ranks, turned = torch_dtype(args["dst_dtype"]), args["sp_size"], args["trans_w"]

    def quant_group_gemm_reduce_sum(x: Any, x_scale: Any, weight: Any, weight_scale: Any) -> Any:
        parts = []
        for rank in range(ranks):
            mine = weight[rank] if turned else weight[rank].t()
            parts.append(scaled_product(x[rank], x_scale[rank], mine, weight_scale[rank], SCALE))
        return torch.stack(parts).sum(0).to(result)

    return quant_group_gemm_reduce_sum


def _sum_reference(args: Args, inputs: Tensors) -> Any:
    x, x_scale, weight, weight_scale = inputs
    rows = spread_rows(x.shape[1], 2 * args["sp_size"] * args["hidden_size"] * args["new_hidden_size"])
    if rows is not None:
        x, x_scale = x[:, rows.to(x.device)], x_scale[:, rows.to(x.device)]
    parts = (
        exact_scaled_product(x[rank], x_scale[rank], weight[rank] if args["trans_w"] else weight[rank].t(), weight_scale[rank])
        for rank in range(args["sp_size"])
    )
    total = sum(parts)
    return total if rows is None else Sample(rows, total)


def _sum_cost(args: Args) -> Cost:
    ranks, rows, width, out = args["sp_size"], tokens_of_rank(args), args["hidden_size"], args["new_hidden_size"]
    read = ranks * (operand_bytes(args["dtype"], rows, width) + operand_bytes(args["dtype"], out, width))
    return Cost(2 * ranks * rows * width * out, read, size_bytes(args["dst_dtype"], rows * out), flops_dtype=args["dtype"])


QUANT_GROUP_GEMM_REDUCE_SUM = Operator(
    name="quant_group_gemm_reduce_sum",
    constant=lambda _args: (2, 3),
    family="llm gemm",
    help="the sum over sp_size of x[num_tokens/sp_size, hidden_size] · weight[hidden_size, new_hidden_size], with scales",
    arguments=(
        TOKENS,
        HIDDEN,
        NEW_HIDDEN,
        SP_SIZE,
        Argument("trans_w", "bool", "weights lie as [new_hidden_size, hidden_size]", False),
        dtype_argument(SCALED, default="int8"),
        dtype_argument(OUTPUTS, name="dst_dtype", default="bfloat16"),
    ),
    inputs=_sum_inputs,
    kernel=_sum_kernel,
    reference=_sum_reference,
    cost=_sum_cost,
    tolerance=lambda args: gemm_tolerance(args["dst_dtype"], args["sp_size"] * args["hidden_size"], args["dtype"]),
    check=check_tokens,
    basic=({"dtype": ["int8", "float8"], "num_tokens": 128, "sp_size": 2, "hidden_size.new_hidden_size": [[512, 1024]]},),
    emulation=emulation,
)
QUANT_GEMMS = {operator.name: operator for operator in (MOE_GATING_GEMM, QUANT_MATMUL, MOE_QUANT_MATMUL, QUANT_GROUP_GEMM_REDUCE_SUM)}
