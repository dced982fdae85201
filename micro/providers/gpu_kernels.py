"""flash-attn and flashinfer on GPUs, by their documented interfaces, where they are installed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from itertools import accumulate
from typing import Any

from bytemlperf.lazy import torch
from micro.operators.attention import ATTENTION, compute_type
from micro.operators.contract import Args, Operator, Outputs, Tensor, Tensors, torch_dtype
from micro.operators.kv_cache import Sequences
from micro.operators.norm import EPSILON
from micro.providers.contract import Kernel, Provider, Refused, fused_add, need_dtype, need_gpu, need_package

HALVES = ("bfloat16", "float16")
FLASH_PAGE = 256
"""flash-attn 2 pages hold a multiple of so many tokens."""

WORKSPACE_BYTES = 128 << 20
"""What flashinfer's documentation gives its wrappers."""


def flash_attn(operator: Operator, args: Args, device: str) -> Kernel:
    """flash_attn_varlen_func over packed q and a paged cache; a linear one is a cache of long pages."""
    need_package("flash_attn", "flash-attn")
    need_gpu(device, "flash-attn")
    if operator.name not in ATTENTION:
        raise Refused(f"flash-attn computes {', '.join(ATTENTION)}, not {operator.name}")
    _need_plain(args, "flash-attn")
    sequences = Sequences.of(args)
    if sequences.block_size % FLASH_PAGE:
        raise Refused(f"flash-attn's pages are multiples of {FLASH_PAGE} tokens, not {sequences.block_size}")
    flash_attn_varlen_func = import_module("flash_attn").flash_attn_varlen_func
    q_starts, k_starts = (_starts(lengths, device) for lengths in (sequences.query, sequences.lengths))
    longest, longest_key = max(sequences.query), max(sequences.lengths)
    causal = args["is_causal"]

    def prepare(inputs: Tensors) -> Tensors:
        q, k_cache, v_cache, table = inputs
        return q, k_cache.transpose(1, 2).contiguous(), v_cache.transpose(1, 2).contiguous(), table

    def run(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Outputs:
        return flash_attn_varlen_func(q, k, v, q_starts, k_starts, longest, longest_key, causal=causal, block_table=table)

    return Kernel(run, prepare, "cache laid out as [blocks, tokens, heads, values] beforehand")


def flashinfer(operator: Operator, args: Args, device: str) -> Kernel:
    """Norms, silu_and_mul, and attention by BatchPrefillWithPagedKVCacheWrapper."""
    need_package("flashinfer", "flashinfer")
    need_gpu(device, "flashinfer")
    if operator.name in ATTENTION:
        return _flashinfer_attention(args, device)
    library = import_module("flashinfer")
    if operator.name not in ("rms_norm", "add_rms_norm", "swiglu", "moe_swiglu"):
        raise Refused(f"no kernel of flashinfer's is known here for {operator.name}")
    need_dtype(args["dtype"], HALVES, "flashinfer")
    if operator.name == "rms_norm":
        return Kernel(lambda x, weight: library.norm.rmsnorm(x, weight, EPSILON))
    if operator.name == "add_rms_norm":
        return fused_add(library.norm.fused_add_rmsnorm)
    return Kernel(library.activation.silu_and_mul)


def _flashinfer_attention(args: Args, device: str) -> Kernel:
    library = import_module("flashinfer")
    _need_plain(args, "flashinfer")
    sequences, dtype = Sequences.of(args), torch_dtype(compute_type(args))
    pages = [-(-length // sequences.block_size) for length in sequences.lengths]
    last = [(length - 1) % sequences.block_size + 1 for length in sequences.lengths]
    q_starts, page_starts = _starts(sequences.query, device), _starts(pages, device)
    heads = args["q_head_num"], args["kv_head_num"], args["head_dim"]

    def prepare(inputs: Tensors) -> Tensors:
        q, k_cache, v_cache, table = inputs
        wrapper = library.BatchPrefillWithPagedKVCacheWrapper(torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device), "HND")
        indices = torch.cat([table[row, :count] for row, count in enumerate(pages)])
        lasts = torch.tensor(last, dtype=torch.int32, device=device)
        wrapper.plan(
            q_starts,
            page_starts,
            indices,
            lasts,
            *heads,
            sequences.block_size,
            causal=args["is_causal"],
            q_data_type=dtype,
            kv_data_type=dtype,
        )
        return wrapper, q, k_cache, v_cache

    def run(wrapper: Any, q: Tensor, k: Tensor, v: Tensor) -> Outputs:
        return wrapper.run(q, (k, v))

    return Kernel(run, prepare, "planned beforehand")


def _need_plain(args: Args, name: str) -> None:
    need_dtype(args["dtype"], HALVES, name)
    need_dtype(args["cache_dtype"], (args["dtype"],), f"{name} with {args['dtype']}")
    for compute in ("qk_compute_dtype", "pv_compute_dtype"):
        need_dtype(args[compute], (args["dtype"],), f"{name} with {args['dtype']}")


def _starts(lengths: Iterable[int], device: str) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


FLASH_ATTN = Provider("flash-attn, on GPUs", flash_attn, ("torch", "flash-attn"), ("torch", "flash_attn"))
FLASHINFER = Provider("flashinfer, on GPUs", flashinfer, ("torch", "flashinfer-python"), ("torch", "flashinfer"))
