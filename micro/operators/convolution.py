"""Convolutions."""

from __future__ import annotations

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Argument, Operator, Run, Tolerance, dtype_argument, wide
from micro.operators.product import gemm_tolerance
from micro.operators.tensors import drawn, moved, normal


def _output_size(side: str, args: Args) -> int:
    return int((args[side] + 2 * args["padding"] - args["kernel_size"]) // args["stride"] + 1)


def _depth(args: Args) -> int:
    """Channels that one channel of the result is made of."""
    return int(args["in_channels"] // args["groups"])


_HEIGHT, _WIDTH = (lambda args: _output_size("height", args)), (lambda args: _output_size("width", args))
_IMAGE = normal("batch_size", "in_channels", "height", "width")
_WEIGHT = normal("out_channels", _depth, "kernel_size", "kernel_size")
_RESULT = normal("batch_size", "out_channels", _HEIGHT, _WIDTH)


def _check(args: Args) -> str:
    if args["in_channels"] % args["groups"] or args["out_channels"] % args["groups"]:
        return f"groups={args['groups']} does not divide both in_channels={args['in_channels']} and out_channels={args['out_channels']}"
    if min(args["height"], args["width"]) + 2 * args["padding"] < args["kernel_size"]:
        return f"kernel_size={args['kernel_size']} is larger than the padded image"
    return ""


def _kernel(args: Args) -> Run:
    stride, padding, groups = args["stride"], args["padding"], args["groups"]
    conv2d = torch.nn.functional.conv2d
    return lambda x, weight: conv2d(x, weight, None, stride, padding, 1, groups)


def _tolerance(args: Args) -> Tolerance:
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
    inputs=drawn(_IMAGE, _WEIGHT),
    kernel=_kernel,
    reference=lambda args, inputs: _kernel(args)(*wide(inputs)),
    cost=moved((_IMAGE, _WEIGHT), (_RESULT,), 2, *_RESULT.sizes, _depth, "kernel_size", "kernel_size"),
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
