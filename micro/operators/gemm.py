"""Matrix products: one, a batch, groups of uneven sizes, a matrix with a vector; and the convolution."""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators import product
from micro.operators.contract import EXACT, FLOATS, Args, Argument, Operator, Run, Sample, Tensor, Tensors, Tolerance, dtype_argument, wide
from micro.operators.product import gemm_tolerance
from micro.operators.routing import ROUTING_HELP, check_routing, spread
from micro.operators.tensors import TensorSpec, drawn, moved, normal, spread_rows, streamed

RESULT: dict[str, str] = {"int8": "int32", "float8_e4m3": "float32"}
"""The result's dtype where it is not the inputs'."""

_SIZES = (
    Argument("M", "int", "rows of A and C"),
    Argument("K", "int", "columns of A, rows of B"),
    Argument("N", "int", "columns of B and C"),
)
_A, _B = TensorSpec(("M", "K"), "dtype", product.matrix), TensorSpec(("K", "N"), "dtype", product.matrix)
_BATCH_A, _BATCH_B, _BATCH_C = (normal("batch_size", *sizes) for sizes in (("M", "K"), ("K", "N"), ("M", "N")))
_GROUP_B = normal("num_groups", "K", "N")
_PRODUCT = (2, "M", "K", "N")
_X, _Y = normal("K"), normal("M")


def result_dtype(args: Args) -> str:
    """Of a product of two such matrices."""
    return RESULT.get(args["dtype"], str(args["dtype"]))


_C = normal("M", "N", dtype=result_dtype)


def _kernel(args: Args) -> Run:
    return product.product if args["dtype"] in RESULT else torch.matmul


def _tolerance(args: Args) -> Tolerance:
    return EXACT if args["dtype"] == "int8" else gemm_tolerance(result_dtype(args), args["K"], args["dtype"])


def _batch_reference(args: Args, inputs: Tensors) -> Sample:
    a, b = inputs
    chosen = spread_rows(args["batch_size"], 2 * args["M"] * args["K"] * args["N"])
    return Sample(chosen, a[chosen].double() @ b[chosen].double())


def group_sizes(args: Args) -> list[int]:
    """Rows of each group; together M."""
    return spread(args["M"], args["num_groups"], args["routing"])


def _group_kernel(args: Args) -> Run:
    sizes, cat = group_sizes(args), torch.cat
    return lambda a, b: cat([rows @ b[group] for group, rows in enumerate(a.split(sizes)) if rows.shape[0]])


def group_of_rows(sizes: list[int]) -> Tensor:
    """Of each row, its group: int64."""
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def _group_reference(args: Args, inputs: Tensors) -> Sample:
    a, b = inputs
    rows = spread_rows(args["M"], 2 * args["K"] * args["N"])
    groups = group_of_rows(group_sizes(args))[rows]
    return Sample(rows, torch.cat([a[rows[groups == group]].double() @ b[group].double() for group in groups.unique().tolist()]))


def _used_groups(args: Args) -> int:
    return sum(1 for size in group_sizes(args) if size)


GEMM = Operator(
    name="gemm",
    constant=lambda _args: (1,),
    help="C[M,N] = A[M,K] · B[K,N]",
    arguments=(*_SIZES, dtype_argument((*FLOATS, *RESULT))),
    kernel=_kernel,
    reference=lambda _args, inputs: product.sampled_product(*inputs),
    **streamed((_A, _B), (_C,), *_PRODUCT),
    tolerance=_tolerance,
    aliases={"num_tokens": "M", "hidden_size": "K", "new_hidden_size": "N"},
    emulation=product.emulation,
)
BATCH_GEMM = Operator(
    name="batch_gemm",
    help="batch_size products C[M,N] = A[M,K] · B[K,N]",
    arguments=(Argument("batch_size", "int", "products"), *_SIZES, dtype_argument()),
    kernel=lambda _args: lambda a, b: a.bmm(b),
    reference=_batch_reference,
    **streamed((_BATCH_A, _BATCH_B), (_BATCH_C,), "batch_size", *_PRODUCT),
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["K"]),
)
GROUP_GEMM = Operator(
    name="group_gemm",
    constant=lambda _args: (1,),
    help="num_groups products of uneven numbers of rows, M in all: C[M_g,N] = A[M_g,K] · B_g[K,N]",
    arguments=(
        Argument("num_groups", "int", "products", high=1 << 16),
        *_SIZES,
        Argument("routing", "any", ROUTING_HELP.replace("experts", "groups"), "balanced"),
        dtype_argument(),
    ),
    inputs=drawn(_A, _GROUP_B),
    kernel=_group_kernel,
    reference=_group_reference,
    cost=moved((_A, normal(_used_groups, "K", "N")), (_C,), *_PRODUCT, held=(_A, _GROUP_B, _C)),
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["K"]),
    check=lambda args: check_routing(args["routing"], args["num_groups"]),
)
GEMV = Operator(
    name="gemv",
    constant=lambda _args: (0,),
    help="y[M] = A[M,K] · x[K]",
    arguments=(_SIZES[0], _SIZES[1], dtype_argument()),
    kernel=lambda _args: lambda a, x: a.mv(x),
    reference=lambda _args, inputs: inputs[0].double() @ inputs[1].double(),
    **streamed((_A, _X), (_Y,), 2, "M", "K"),
    tolerance=lambda args: gemm_tolerance(args["dtype"], args["K"]),
)
GEMMS = (GEMM, BATCH_GEMM, GROUP_GEMM, GEMV)

# --- convolution ----------------------------------------------------------------------------------------------


def _output_size(side: str, args: Args) -> int:
    return int((args[side] + 2 * args["padding"] - args["kernel_size"]) // args["stride"] + 1)


def _depth(args: Args) -> int:
    """Channels that one channel of the result is made of."""
    return int(args["in_channels"] // args["groups"])


_HEIGHT, _WIDTH = (lambda args: _output_size("height", args)), (lambda args: _output_size("width", args))
_IMAGE = normal("batch_size", "in_channels", "height", "width")
_WEIGHT = normal("out_channels", _depth, "kernel_size", "kernel_size")
_RESULT = normal("batch_size", "out_channels", _HEIGHT, _WIDTH)


def _conv_check(args: Args) -> str:
    if args["in_channels"] % args["groups"] or args["out_channels"] % args["groups"]:
        return f"groups={args['groups']} does not divide both in_channels={args['in_channels']} and out_channels={args['out_channels']}"
    if min(args["height"], args["width"]) + 2 * args["padding"] < args["kernel_size"]:
        return f"kernel_size={args['kernel_size']} is larger than the padded image"
    return ""


def _conv_kernel(args: Args) -> Run:
    stride, padding, groups = args["stride"], args["padding"], args["groups"]
    conv2d = torch.nn.functional.conv2d
    return lambda x, weight: conv2d(x, weight, None, stride, padding, 1, groups)


def _conv_tolerance(args: Args) -> Tolerance:
    """Like a product; fast algorithms (Winograd) add and subtract what is larger than the result."""
    one = gemm_tolerance(args["dtype"], _depth(args) * args["kernel_size"] ** 2)
    return one._replace(of_scale=2 * one.of_scale, noise=2 * one.noise)


CONV2D = Operator(
    name="conv2d",
    constant=lambda _args: (1,),
    help="2D convolution of [batch_size, in_channels, height, width], without bias",
    arguments=(
        Argument("batch_size", "int", "images"),
        Argument("in_channels", "int", "channels of the image"),
        Argument("out_channels", "int", "channels of the result"),
        Argument("height", "int", "rows of an image"),
        Argument("width", "int", "columns of an image"),
        Argument("kernel_size", "int", "side of the square kernel", 3),
        Argument("stride", "int", "step in both directions", 1),
        Argument("padding", "int", "zeros around the image", 0, low=0),
        Argument("groups", "int", "groups of channels; in_channels of them is depthwise", 1),
        dtype_argument(),
    ),
    kernel=_conv_kernel,
    reference=lambda args, inputs: _conv_kernel(args)(*wide(inputs)),
    **streamed((_IMAGE, _WEIGHT), (_RESULT,), 2, *_RESULT.sizes, _depth, "kernel_size", "kernel_size"),
    tolerance=_conv_tolerance,
    check=_conv_check,
)
