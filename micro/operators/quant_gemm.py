"""Products of a transformer's layers with quantised operands, and the gate of a mixture of experts.

x[M,K] with a float32 scale for each token, weight[N,K] with one for each output channel: (x · weightᵀ) · both scales,
to dst_dtype. int8 sums are exact in int32; int4 weights lie two to a byte. Floating operands have no scales.
"""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Argument, Operator, Run, SameAs, Sample, Tensor, Tensors, dtype_argument, torch_dtype
from micro.operators.llm_norm import HIDDEN, SP_SIZE, TOKENS, X, check_tokens, tokens_of_rank
from micro.operators.product import emulation, exact_scaled_product, gemm_tolerance, matrix, sampled_product, scaled_product, scales
from micro.operators.tensors import ACTIVATIONS, Size, TensorSpec, normal, spread_rows, streamed

SCALED = ("int8", "float8_e4m3")
OPERANDS = (*SCALED, *ACTIVATIONS)
NEW_HIDDEN = Argument("new_hidden_size", "int", "values of a resulting token")
QUANT_DTYPES = (
    dtype_argument(OPERANDS, default="int8"),
    dtype_argument((*OPERANDS, "int4"), name="w_dtype", default=SameAs("dtype", "int8")),
    dtype_argument(OPERANDS, name="compute_dtype", default=SameAs("dtype", "int8")),
    dtype_argument(ACTIVATIONS, name="dst_dtype", default="bfloat16"),
)
SCALE = "float32"
_RESULT, _PRODUCT = normal(tokens_of_rank, "new_hidden_size", dtype="dst_dtype"), (2, tokens_of_rank, "hidden_size", "new_hidden_size")


def check_quant_dtypes(args: Args) -> str:
    """Which operands go together."""
    dtype, weight, compute = args["dtype"], args.get("w_dtype", args["dtype"]), args.get("compute_dtype", args["dtype"])
    if weight != dtype and not (dtype == "int8" and weight == "int4"):
        return f"w_dtype={weight} does not go with dtype={dtype}; int4 goes with int8, others with themselves"
    if compute != dtype:
        return f"compute_dtype={compute} is not dtype={dtype}"
    return "hidden_size is odd, int4 lies in pairs" if weight == "int4" and args["hidden_size"] % 2 else ""


def operand(dtype: str, *sizes: Size) -> tuple[TensorSpec, TensorSpec]:
    """A random matrix in the format that the argument `dtype` names, and the scales of its rows where it has some."""
    return TensorSpec(sizes, dtype, matrix), scales_of(dtype, *sizes[:-1])


def scales_of(dtype: str, *sizes: Size) -> TensorSpec:
    """float32, of cases whose argument `dtype` is a format with scales."""
    return TensorSpec(sizes, dtype, scales, SCALE, lambda args: args[dtype] in (*SCALED, "int4"))


def weight_places(args: Args) -> tuple[int, ...]:
    """Where the weight, its scale and a bias are among the inputs, behind x and its scale."""
    return (2, 3, 4) if args["dtype"] in SCALED else (1, 2)


def four(tensors: Tensors) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """x, its scale, weight, its scale; the scales None where there are only two tensors."""
    if len(tensors) == 2:
        return tensors[0], None, tensors[1], None
    x, x_scale, weight, weight_scale = tensors
    return x, x_scale, weight, weight_scale


_OPERANDS = (
    *operand("dtype", tokens_of_rank, "hidden_size"),
    *operand("w_dtype", "new_hidden_size", "hidden_size"),
    normal("new_hidden_size", dtype="dst_dtype")._replace(present=lambda args: args["has_bias"]),
)


def _ranks_apart(args: Args) -> int:
    """Ranks by which the result is laid out."""
    return int(args["sp_size"] if args["transpose_o"] else 1)


def _by_rank(result: Tensor, ranks: int) -> Tensor:
    """[tokens, out] with the columns of each rank together: [ranks · tokens, out / ranks]."""
    return result if ranks == 1 else result.unflatten(1, (ranks, -1)).transpose(0, 1).flatten(0, 1)


def _matmul_kernel(args: Args) -> Run:
    dst_dtype, ranks = args["dst_dtype"], _ranks_apart(args)

    def quant_matmul(*operands: Tensor) -> Tensor:
        return _by_rank(scaled_product(*four(operands), dst_dtype=dst_dtype), ranks)

    def biased_quant_matmul(*tensors: Tensor) -> Tensor:
        *operands, bias = tensors
        return _by_rank(scaled_product(*four(tuple(operands)), dst_dtype=dst_dtype) + bias, ranks)

    return biased_quant_matmul if args["has_bias"] else quant_matmul


def _matmul_reference(args: Args, inputs: Tensors) -> Tensor | Sample:
    operands, bias = (inputs[:-1], inputs[-1].double()) if args["has_bias"] else (inputs, 0.0)
    x, x_scale, weight, weight_scale = four(operands)
    if _ranks_apart(args) > 1:
        return _by_rank(exact_scaled_product(x, x_scale, weight, weight_scale) + bias, _ranks_apart(args))
    rows = spread_rows(x.shape[0], 2 * args["hidden_size"] * args["new_hidden_size"])
    scale = None if x_scale is None else x_scale[rows]
    return Sample(rows, exact_scaled_product(x[rows], scale, weight, weight_scale) + bias)


def _matmul_check(args: Args) -> str:
    if args["transpose_o"] and args["new_hidden_size"] % args["sp_size"]:
        return f"sp_size={args['sp_size']} does not divide new_hidden_size={args['new_hidden_size']}"
    return check_quant_dtypes(args) or check_tokens(args)


def _matmul(name: str, help_: str) -> Operator:
    return Operator(
        name=name,
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
        kernel=_matmul_kernel,
        reference=_matmul_reference,
        **streamed(_OPERANDS, (_RESULT,), *_PRODUCT, flops_dtype="compute_dtype"),
        tolerance=lambda args: gemm_tolerance(args["dst_dtype"], args["hidden_size"], args["w_dtype"]),
        check=_matmul_check,
        emulation=emulation,
    )


# --- moe_gating_gemm ------------------------------------------------------------------------------------------

_GATE, _LOGITS = normal("num_experts", "hidden_size"), normal(tokens_of_rank, "num_experts", dtype="dst_dtype")


def _gating_kernel(args: Args) -> Run:
    result = torch_dtype(args["dst_dtype"])
    return lambda x, weight: (x @ weight.t()).to(result)


def _gating_check(args: Args) -> str:
    if args["compute_dtype"] != args["dtype"]:
        return f"compute_dtype={args['compute_dtype']} is not dtype={args['dtype']}"
    return check_tokens(args)


MOE_GATING_GEMM = Operator(
    name="moe_gating_gemm",
    constant=lambda _args: (1,),
    help="x[num_tokens/sp_size, hidden_size] · weight[num_experts, hidden_size]ᵀ",
    arguments=(
        TOKENS,
        HIDDEN,
        Argument("num_experts", "int", "experts"),
        SP_SIZE,
        dtype_argument(ACTIVATIONS),
        dtype_argument(ACTIVATIONS, name="compute_dtype", default=SameAs("dtype", "float32")),
        dtype_argument(ACTIVATIONS, name="dst_dtype"),
    ),
    kernel=_gating_kernel,
    reference=lambda _args, inputs: sampled_product(inputs[0], inputs[1].t()),
    **streamed((X, _GATE), (_LOGITS,), 2, *X.sizes, "num_experts", flops_dtype="compute_dtype"),
    tolerance=lambda args: max(gemm_tolerance(args[name], args["hidden_size"]) for name in ("dtype", "dst_dtype")),
    check=_gating_check,
)


# --- quant_group_gemm_reduce_sum ------------------------------------------------------------------------------


def _weight_rows(args: Args) -> int:
    return int(args["new_hidden_size"] if args["trans_w"] else args["hidden_size"])


def _weight_columns(args: Args) -> int:
    return int(args["hidden_size"] if args["trans_w"] else args["new_hidden_size"])


_SUM_OPERANDS = (
    *operand("dtype", "sp_size", tokens_of_rank, "hidden_size"),
    TensorSpec(("sp_size", _weight_rows, _weight_columns), "dtype", matrix),
    scales_of("dtype", "sp_size", "new_hidden_size"),
)


def _sum_kernel(args: Args) -> Run:
    result, ranks, turned, stack = torch_dtype(args["dst_dtype"]), args["sp_size"], args["trans_w"], torch.stack

    def quant_group_gemm_reduce_sum(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
        weights = weight if turned else weight.transpose(1, 2)
        parts = [scaled_product(x[rank], x_scale[rank], weights[rank], weight_scale[rank], SCALE) for rank in range(ranks)]
        return stack(parts).sum(0).to(result)

    return quant_group_gemm_reduce_sum


def _sum_reference(args: Args, inputs: Tensors) -> Sample:
    x, x_scale, weight, weight_scale = inputs
    weights = weight if args["trans_w"] else weight.transpose(1, 2)
    rows = spread_rows(x.shape[1], 2 * args["sp_size"] * args["hidden_size"] * args["new_hidden_size"])
    ranks = range(args["sp_size"])
    return Sample(rows, sum(exact_scaled_product(x[rank][rows], x_scale[rank][rows], weights[rank], weight_scale[rank]) for rank in ranks))


QUANT_GROUP_GEMM_REDUCE_SUM = Operator(
    name="quant_group_gemm_reduce_sum",
    constant=lambda _args: (2, 3),
    help="the sum over sp_size of x[num_tokens/sp_size, hidden_size] · weight[hidden_size, new_hidden_size], with scales",
    arguments=(
        TOKENS,
        HIDDEN,
        NEW_HIDDEN,
        SP_SIZE,
        Argument("trans_w", "bool", "weights lie as [new_hidden_size, hidden_size]", False),
        dtype_argument(SCALED, default="int8"),
        dtype_argument(ACTIVATIONS, name="dst_dtype", default="bfloat16"),
    ),
    kernel=_sum_kernel,
    reference=_sum_reference,
    **streamed(_SUM_OPERANDS, (_RESULT,), "sp_size", *_PRODUCT),
    tolerance=lambda args: gemm_tolerance(args["dst_dtype"], args["sp_size"] * args["hidden_size"], args["dtype"]),
    check=check_tokens,
    emulation=emulation,
)
QUANT_GEMMS = (
    MOE_GATING_GEMM,
    _matmul(
        "quant_matmul",
        "x[num_tokens/sp_size, hidden_size] · weight[new_hidden_size, hidden_size]ᵀ with scales by token and by channel",
    ),
    _matmul("moe_quant_matmul", "quant_matmul of the shared experts"),
    QUANT_GROUP_GEMM_REDUCE_SUM,
)
