"""torch's own kernels: eager, torch.compile, and that with Triton's products; its scaled_dot_product_attention, which chooses a flash,
memory-efficient or plain kernel by itself.
"""

from __future__ import annotations

from typing import Any

from bytemlperf.lazy import torch
from micro.operators.attention import ATTENTION, One, compute_type, each_sequence
from micro.operators.contract import Args, Operator, Outputs, Run, Tensor, torch_dtype
from micro.operators.kv_cache import Sequences
from micro.providers.contract import Kernel, Provider, Refused, need_gpu, need_package

TF32_FIRST_CAPABILITY = (8, 0)


def eager(operator: Operator, args: Args, device: str) -> Kernel:
    """The operator's own torch expression, as torch dispatches it."""
    allow_dtypes(args, device)
    return Kernel(operator.kernel(args), note=operator.emulation(args, device))


def compiled(operator: Operator, args: Args, device: str) -> Kernel:
    """The same expression through torch.compile; compiling happens before the correctness check."""
    allow_dtypes(args, device)
    torch._dynamo.reset()
    return Kernel(torch.compile(operator.kernel(args), dynamic=False), note=operator.emulation(args, device))


def triton(operator: Operator, args: Args, device: str) -> Kernel:
    """torch.compile that writes every product as a Triton kernel too, the best of several configurations."""
    need_package("triton", "Triton")
    need_gpu(device, "Triton")
    allow_dtypes(args, device)
    torch._dynamo.reset()
    options: dict[str, Any] = {"max_autotune": True, "max_autotune_gemm_backends": "TRITON"}
    return Kernel(torch.compile(operator.kernel(args), dynamic=False, options=options), note=operator.emulation(args, device))


def allow_dtypes(args: Args, device: str) -> None:
    """Set TF32 as the case asks. Raises Refused for a dtype that the device lacks."""
    wants_tf32 = "tfloat32" in args.values()
    if wants_tf32 and device == "cpu":
        raise Refused("CPUs have no tfloat32")
    if wants_tf32 and torch.cuda.get_device_capability(device) < TF32_FIRST_CAPABILITY:
        raise Refused("this GPU has no tfloat32")
    torch.set_float32_matmul_precision("high" if wants_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = wants_tf32


TORCH = Provider("torch eager, as torch dispatches it", eager)
TORCH_COMPILE = Provider("torch.compile of the same expression", compiled)
TRITON = Provider("torch.compile with Triton's products, on GPUs", triton, ("torch", "triton"), ("torch", "triton"))


MOST_MASK_BYTES = 1 << 30


def sdpa(operator: Operator, args: Args, device: str) -> Kernel:
    """Sequence by sequence, or all at once where they are equally long in a linear cache."""
    if operator.name not in ATTENTION:
        raise Refused(f"SDPA computes {', '.join(ATTENTION)}, not {operator.name}")
    allow_dtypes(args, device)
    sequences, dtype, result = Sequences.of(args), torch_dtype(compute_type(args)), torch_dtype(args["dst_dtype"])
    cat = torch.cat
    masks = {length: _mask(*length, args["is_causal"], device) for length in set(zip(sequences.query, sequences.cached, strict=True))}
    notes = [operator.emulation(args, device), "mask made beforehand" if any(mask is not None for mask, _ in masks.values()) else ""]
    note = "; ".join(part for part in notes if part)

    def attend(one: One) -> Tensor:
        mask, causal = masks[one.q.shape[-2], one.cached]
        return _call(one.q[None], one.k[None], one.v[None], mask, causal)[0].transpose(0, 1)

    def run(*tensors: Tensor) -> Outputs:
        return cat([attend(one) for one in each_sequence(args, tensors, dtype)]).to(result)

    equal = len(masks) == 1 and sequences.blocks_per_sequence == 1 and not quantised(args)
    return Kernel(_batched(sequences, next(iter(masks.values()))) if equal else run, note=note)


def quantised(args: Args) -> tuple[str, ...]:
    """Which operands are quantised, and so have scales to be applied first."""
    return tuple(name for name in ("dtype", "cache_dtype") if args[name] != compute_type(args))


def _batched(sequences: Sequences, masked: tuple[Tensor | None, bool]) -> Run:
    length, batch = sequences.lengths[0], len(sequences.query)

    def run(q: Tensor, k_cache: Tensor, v_cache: Tensor, *_rest: Tensor) -> Outputs:
        heads = q.unflatten(0, (batch, -1)).transpose(1, 2)
        attended = _call(heads, k_cache[:, :, :length], v_cache[:, :, :length], *masked)
        return attended.transpose(1, 2).flatten(0, 1)

    return run


def _call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def _mask(query: int, cached: int, causal: bool, device: str) -> tuple[Tensor | None, bool]:
    """A mask and the is_causal flag. The flag means a triangle from the first key on, so it serves where no
    token is cached; a single new token sees all keys and needs neither."""
    if not causal or query == 1:
        return None, False
    if not cached:
        return None, True
    if query * (query + cached) > MOST_MASK_BYTES:
        raise Refused(f"SDPA needs a mask of {query} by {query + cached}, more than {MOST_MASK_BYTES >> 20} MiB")
    return torch.ones(query, query + cached, dtype=torch.bool, device=device).tril(cached), False


SDPA = Provider("torch's scaled_dot_product_attention", sdpa)
