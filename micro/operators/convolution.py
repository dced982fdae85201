"""Convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, Tensors, Tolerance, dtype_argument, wide
from micro.operators.dtypes import size_bytes
from micro.operators.product import gemm_tolerance


def _output_size(args: Args) -> tuple[int, int]:
    reach = args["kernel_size"] - 1
    height, width = ((args[name] + 2 * args["padding"] - reach - 1) // args["stride"] + 1 for name in ("height", "width"))
    return height, width


def _check(args: Args) -> str:
    if args["in_channels"] % args["groups"] or args["out_channels"] % args["groups"]:
        return f"groups={args['groups']} does not divide both in_channels={args['in_channels']} and out_channels={args['out_channels']}"
    if min(args["height"], args["width"]) + 2 * args["padding"] < args["kernel_size"]:
        return f"kernel_size={args['kernel_size']} is larger than the padded image"
    return ""


def _weight_shape(args: Args) -> tuple[int, int, int, int]:
    return args["out_channels"], args["in_channels"] // args["groups"], args["kernel_size"], args["kernel_size"]


def _inputs(args: Args, make: Maker) -> Tensors:
    image = make.normal(args["batch_size"], args["in_channels"], args["height"], args["width"], dtype=args["dtype"])
    return image, make.normal(*_weight_shape(args), dtype=args["dtype"])


def _kernel(args: Args) -> Callable[..., Any]:
    from torch.nn.functional import conv2d

    stride, padding, groups = args["stride"], args["padding"], args["groups"]

    def convolve(x: Any, weight: Any) -> Any:
        return conv2d(x, weight, None, stride, padding, 1, groups)

    return convolve


def _reference(args: Args, inputs: Tensors) -> Any:
    return _kernel(args)(*wide(inputs))


def _cost(args: Args) -> Cost:
    height, width = _output_size(args)
    out, depth, kernel, _ = _weight_shape(args)
    outputs = args["batch_size"] * out * height * width
    read = args["batch_size"] * args["in_channels"] * args["height"] * args["width"] + out * depth * kernel * kernel
    dtype = args["dtype"]
    return Cost(2 * outputs * depth * kernel * kernel, size_bytes(dtype, read), size_bytes(dtype, outputs), flops_dtype=dtype)


def _tolerance(args: Args) -> Tolerance:
    """Like a product; fast algorithms (Winograd) add and subtract what is larger than the result."""
    one = gemm_tolerance(args["dtype"], _weight_shape(args)[1] * args["kernel_size"] ** 2)
    return one._replace(of_scale=2 * one.of_scale, noise=2 * one.noise)


CONV2D = Operator(
    name="conv2d",
    constant=lambda _args: (1,),
    family="convolution",
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
    inputs=_inputs,
    kernel=_kernel,
    reference=_reference,
    cost=_cost,
    tolerance=_tolerance,
    check=_check,
    basic=(
        {
            "dtype": ["float32", "bfloat16"],
            "batch_size": [1],
            "in_channels.out_channels.height.width.kernel_size.stride.padding": [[64, 64, 56, 56, 3, 1, 1], [256, 64, 56, 56, 1, 1, 0]],
        },
    ),
)
