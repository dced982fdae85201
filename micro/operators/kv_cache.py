"""Sequences, their key and value cache, and the two operators that come before attention.

A case has `batch_size` sequences with `cache_len` tokens in the cache and `q_len` new ones, or differs by
sequence with `q_lens` and `cache_lens` (ByteMLPerf's batch_llm). Packed tokens are [tokens, q heads, k heads,
v heads] by head_dim. Caches are [blocks, kv_head_num, block_size, head_dim]: paged in random order, or linear,
which is one block of the longest sequence's length for each (block_size 0).

A quantised cache has a scale for each kv head and dimension: stored = round(value / scale), read = stored · scale.
Bytes count tokens, not whole blocks. Rotation costs three FLOPs a value: two products and a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from micro.operators.contract import Args, Argument, Cost, Maker, Operator, SameAs, Sample, Tensors, Tolerance, dtype_argument, rounding
from micro.operators.dtypes import DTYPES, size_bytes, torch_dtype
from micro.operators.gemm import REFERENCE_VALUES, spread_rows
from micro.operators.quantise import FLOAT8_HALF_SMALLEST, FLOAT8_HALF_UNIT, HALF_STEP, LARGEST

ACTIVATIONS = ("bfloat16", "float16", "float32")
CACHES = (*ACTIVATIONS, *LARGEST)
ROPE_BASE = 10000.0
CACHE_SPREAD = 3.0
"""Standard deviations of a value that a quantised cache's largest one stands for; beyond, values are cut off."""

HEADS = (
    Argument("q_head_num", "int", "heads of q"),
    Argument("kv_head_num", "int", "heads of k and of v"),
    Argument("head_dim", "int", "values of a head"),
)
SEQUENCES = (
    Argument("attn_mode", "choice", "prefill: any lengths; decode: few new tokens each", "prefill", choices=("prefill", "decode")),
    Argument("batch_size", "int", "sequences", 1, high=1 << 20),
    Argument("q_len", "int", "new tokens of each", 1),
    Argument("cache_len", "int", "tokens of each in the cache before", 0, low=0),
    Argument("q_lens", "ints", "new tokens by sequence, in place of batch_size and q_len", ()),
    Argument("cache_lens", "ints", "tokens in the cache by sequence", (), low=0),
)
BLOCK_SIZE = Argument("block_size", "int", "tokens of a cache block; 0 is a linear cache", 0, low=0)


@dataclass(frozen=True)
class Sequences:
    """`query` new tokens and `cached` ones before them, by sequence."""

    query: tuple[int, ...]
    cached: tuple[int, ...]
    block_size: int

    @classmethod
    def of(cls, args: Args) -> Sequences:
        """From a case's arguments."""
        if args["q_lens"]:
            query, cached = tuple(args["q_lens"]), tuple(args["cache_lens"]) or (0,) * len(args["q_lens"])
        else:
            query, cached = (args["q_len"],) * args["batch_size"], (args["cache_len"],) * args["batch_size"]
        longest = max(new + old for new, old in zip(query, cached, strict=True))
        return cls(query, cached, args.get("block_size", 0) or longest)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Keys of each sequence once the new tokens are stored."""
        return tuple(new + old for new, old in zip(self.query, self.cached, strict=True))

    @property
    def tokens(self) -> int:
        return sum(self.query)

    @property
    def starts(self) -> list[int]:
        """Where each sequence's new tokens begin."""
        return [0, *accumulate(self.query)][:-1]

    @property
    def blocks_per_sequence(self) -> int:
        return -(-max(self.lengths) // self.block_size)

    @property
    def blocks(self) -> int:
        return len(self.query) * self.blocks_per_sequence

    def block_table(self, make: Maker) -> Any:
        """[sequences, blocks_per_sequence] int32, each block once. In order where one sequence is one block."""
        linear = self.blocks_per_sequence == 1
        order = make.values(list(range(self.blocks))) if linear else make.permutation(self.blocks)
        return order.view(len(self.query), -1).int()

    def positions(self, make: Maker) -> Any:
        """[tokens] int64: each new token's place in its sequence."""
        return make.values([old + place for new, old in zip(self.query, self.cached, strict=True) for place in range(new)])

    def slots(self, make: Maker, table: Any) -> Any:
        """[tokens] int64: block · block_size + place in the block, of each new token."""
        import torch

        table, positions = table.long(), self.positions(make)
        sequence = torch.repeat_interleave(make.values(list(range(len(self.query)))), make.values(list(self.query)))
        return table[sequence, positions // self.block_size] * self.block_size + positions % self.block_size


def check_sequences(args: Args) -> str:
    """Lengths that fit each other, heads that divide."""
    if args["cache_lens"] and len(args["cache_lens"]) != len(args["q_lens"]):
        return f"{len(args['q_lens'])} q_lens and {len(args['cache_lens'])} cache_lens"
    if args["q_head_num"] % args["kv_head_num"]:
        return f"kv_head_num={args['kv_head_num']} does not divide q_head_num={args['q_head_num']}"
    return ""


def cache_values(args: Args, sequences: Sequences) -> int:
    """Of the whole k cache (or v), as allocated."""
    return sequences.blocks * sequences.block_size * int(args["kv_head_num"] * args["head_dim"])


def random_cache(args: Args, make: Maker, sequences: Sequences) -> Any:
    """[blocks, kv_head_num, block_size, head_dim] of the cache's dtype; standard normal once scaled."""
    shape = (sequences.blocks, args["kv_head_num"], sequences.block_size, args["head_dim"])
    dtype = args["cache_dtype"]
    if dtype in LARGEST:
        return make.normal(*shape, scale=LARGEST[dtype] / CACHE_SPREAD).clamp_(-LARGEST[dtype], LARGEST[dtype]).to(torch_dtype(dtype))
    return make.normal(*shape, dtype=dtype)


def cache_scale(args: Args, make: Maker) -> Any:
    """[kv_head_num, head_dim] float32, around what makes stored values standard normal."""
    step = CACHE_SPREAD / LARGEST[args["cache_dtype"]]
    return make.uniform(0.5 * step, 1.5 * step, args["kv_head_num"], args["head_dim"])


# --- rotary_embedding -----------------------------------------------------------------------------------------


def _rope_check(args: Args) -> str:
    if args["rope_dim"] % 2:
        return f"rope_dim={args['rope_dim']} is odd"
    if args["rope_offset"] + args["rope_dim"] > args["head_dim"]:
        return f"rope_offset={args['rope_offset']} and rope_dim={args['rope_dim']} exceed head_dim={args['head_dim']}"
    return check_sequences(args)


def _rope_inputs(args: Args, make: Maker) -> Tensors:
    import torch

    sequences, heads = Sequences.of(args), args["q_head_num"] + 2 * args["kv_head_num"]
    packed = make.normal(sequences.tokens, heads, args["head_dim"], dtype=args["dtype"])
    frequencies = ROPE_BASE ** (-torch.arange(0, args["rope_dim"], 2, dtype=torch.float64) / args["rope_dim"])
    angles = (torch.arange(max(sequences.lengths), dtype=torch.float64)[:, None] * frequencies).repeat(1, 2)
    return packed, sequences.positions(make), make.values(angles.cos(), args["dtype"]), make.values(angles.sin(), args["dtype"])


def _rotated(x: Any, cos: Any, sin: Any) -> Any:
    """The two halves of the last dimension are the parts of a complex number, turned by the angle."""
    import torch

    left, right = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-right, left), -1) * sin[:, None]


def _rope_kernel(args: Args) -> Callable[..., Any]:
    heads, part = args["q_head_num"] + args["kv_head_num"], slice(args["rope_offset"], args["rope_offset"] + args["rope_dim"])

    def rotary_embedding(packed: Any, positions: Any, cos: Any, sin: Any) -> Any:
        turned = packed[:, :heads, part]
        turned.copy_(_rotated(turned, cos[positions], sin[positions]))
        return packed

    return rotary_embedding


def _rope_reference(args: Args, inputs: Tensors) -> Any:
    """Of evenly spread tokens where all are many: each is turned by itself."""
    packed, positions, cos, sin = inputs
    rows = spread_rows(packed.shape[0], packed[0].numel(), REFERENCE_VALUES)
    if rows is not None:
        packed, positions = packed[rows.to(packed.device)], positions[rows.to(packed.device)]
    result = packed.double()
    turned = result[:, : args["q_head_num"] + args["kv_head_num"], args["rope_offset"] : args["rope_offset"] + args["rope_dim"]]
    turned.copy_(_rotated(turned.clone(), cos[positions].double(), sin[positions].double()))
    return result if rows is None else Sample(rows, result)


def different_positions(sequences: Sequences) -> int:
    """How many rows of a table by position are read: the union of the sequences' ranges."""
    covered, end = 0, 0
    for old, new in sorted(zip(sequences.cached, sequences.query, strict=True)):
        covered += max(0, old + new - max(old, end))
        end = max(end, old + new)
    return covered


def _rope_cost(args: Args) -> Cost:
    sequences, dtype = Sequences.of(args), args["dtype"]
    turned = sequences.tokens * (args["q_head_num"] + args["kv_head_num"]) * args["rope_dim"]
    index = size_bytes("int64", sequences.tokens)
    held = (
        sequences.tokens * (args["q_head_num"] + 2 * args["kv_head_num"]) * args["head_dim"] + 2 * max(sequences.lengths) * args["rope_dim"]
    )
    read = size_bytes(dtype, turned + 2 * different_positions(sequences) * args["rope_dim"]) + index
    return Cost(3 * turned, read, size_bytes(dtype, turned), size_bytes(dtype, held) + index, flops_dtype=dtype)


ROTARY_EMBEDDING = Operator(
    name="rotary_embedding",
    constant=lambda _args: (2, 3),
    writes=(0,),
    family="attention",
    help="q and k of packed tokens turned by their positions' angles, from a table of cosines and sines, in place",
    arguments=(
        *HEADS,
        *SEQUENCES,
        Argument("rope_offset", "int", "first value of a head that turns", 0, low=0),
        Argument("rope_dim", "int", "values of a head that turn"),
        dtype_argument(ACTIVATIONS, default="bfloat16"),
    ),
    inputs=_rope_inputs,
    kernel=_rope_kernel,
    reference=_rope_reference,
    cost=_rope_cost,
    tolerance=lambda args: rounding(args["dtype"], scale=2, cancels=2),  # the two products may cancel
    check=_rope_check,
    basic=(
        {
            "dtype": ["float32", "bfloat16"],
            "q_head_num.kv_head_num.head_dim.rope_offset.rope_dim": [[16, 4, 128, 0, 128]],
            "attn_mode.batch_size.cache_len.q_len": [["prefill", 1, 128, 256], ["decode", 16, 512, 1]],
        },
    ),
)


# --- store_kv_cache -------------------------------------------------------------------------------------------


def _stored(args: Args) -> tuple[str, ...]:
    return ("k", "v") if args["store_mode"] == "both" else (args["store_mode"],)


def _store_inputs(args: Args, make: Maker) -> Tensors:
    sequences, heads = Sequences.of(args), args["q_head_num"] + 2 * args["kv_head_num"]
    packed = make.normal(sequences.tokens, heads, args["head_dim"], dtype=args["dtype"])
    caches = [random_cache(args, make, sequences) for _ in _stored(args)]
    return (
        packed,
        sequences.slots(make, sequences.block_table(make)),
        *caches,
        *(cache_scale(args, make) for _ in _stored(args) if args["cache_dtype"] in LARGEST),
    )


def _new_values(args: Args, packed: Any) -> list[Any]:
    q, kv = args["q_head_num"], args["kv_head_num"]
    return [packed[:, q : q + kv] if name == "k" else packed[:, q + kv :] for name in _stored(args)]


def _store_kernel(args: Args) -> Callable[..., Any]:
    count, largest, integer = len(_stored(args)), LARGEST.get(args["cache_dtype"]), args["cache_dtype"] == "int8"

    def store_kv_cache(packed: Any, slots: Any, *rest: Any) -> Any:
        caches, scales = rest[:count], rest[count:]
        block_size = caches[0].shape[2]
        for place, (cache, values) in enumerate(zip(caches, _new_values(args, packed), strict=True)):
            if largest:
                values = (values.float() / scales[place]).clamp(-largest, largest)
                values = values.round() if integer else values
            cache[slots // block_size, :, slots % block_size] = values.to(cache.dtype)
        return caches

    return store_kv_cache


def _store_reference(args: Args, inputs: Tensors) -> Any:
    """What lies at the tokens' slots, not rounded, and that nothing else changed."""
    import torch

    packed, rest = inputs[0], inputs[2:]
    count, largest = len(_stored(args)), LARGEST.get(args["cache_dtype"])
    results = []
    for place, values in enumerate(_new_values(args, packed)):
        results.append((values.double() / rest[count + place].double()).clamp(-largest, largest) if largest else values.double())
    return (*results, torch.zeros(1))


def _store_comparable(_args: Args, inputs: Tensors, outputs: Any) -> Any:
    import torch

    slots, caches = inputs[1], outputs if isinstance(outputs, tuple | list) else (outputs,)
    found, elsewhere = [], 0
    for before, cache in zip(inputs[2:], caches, strict=False):
        block, place = slots // cache.shape[2], slots % cache.shape[2]
        found.append(cache[block, :, place])
        changed = (cache.view(torch.uint8) != before.view(torch.uint8)).view(cache.shape[0], cache.shape[1], cache.shape[2], -1).any(-1)
        changed[block, :, place] = False
        elsewhere += int(changed.sum())
    return (*found, torch.tensor([float(elsewhere)]))


def _store_tolerance(args: Args) -> tuple[Tolerance, ...]:
    float32, half = DTYPES["float32"].epsilon, DTYPES[args["cache_dtype"]].epsilon / 2
    one = Tolerance(half, 1e-7)  # converted once; exact where both dtypes are the same
    if args["cache_dtype"] == "int8":
        one = Tolerance(0, HALF_STEP + 128 * 4 * float32)
    elif args["cache_dtype"] in LARGEST:
        one = Tolerance(FLOAT8_HALF_UNIT + 4 * float32, FLOAT8_HALF_SMALLEST)
    return (*(one for _ in _stored(args)), Tolerance(0, 0))


def _store_cost(args: Args) -> Cost:
    sequences, kinds = Sequences.of(args), len(_stored(args))
    moved = kinds * sequences.tokens * args["kv_head_num"] * args["head_dim"]
    scale = size_bytes("float32", kinds * args["kv_head_num"] * args["head_dim"]) if args["cache_dtype"] in LARGEST else 0
    read = size_bytes(args["dtype"], moved) + size_bytes("int64", sequences.tokens) + scale
    written = size_bytes(args["cache_dtype"], moved)
    packed = size_bytes(args["dtype"], sequences.tokens * (args["q_head_num"] + 2 * args["kv_head_num"]) * args["head_dim"])
    held = packed + size_bytes(args["cache_dtype"], kinds * cache_values(args, sequences))
    flops = 2 * moved if args["cache_dtype"] in LARGEST else 0  # division by the scale, rounding
    return Cost(flops, read, written, held, flops_dtype=args["dtype"])


STORE_KV_CACHE = Operator(
    name="store_kv_cache",
    writes=(2, 3),
    family="attention",
    help="k and v of packed tokens written to their slots of a linear or paged cache, quantised where it is int8 or float8",
    arguments=(
        *HEADS,
        *SEQUENCES,
        BLOCK_SIZE,
        Argument("store_mode", "choice", "which caches", "both", choices=("both", "k", "v")),
        dtype_argument(ACTIVATIONS, default="bfloat16"),
        dtype_argument(CACHES, name="cache_dtype", default=SameAs("dtype", "bfloat16")),
    ),
    inputs=_store_inputs,
    kernel=_store_kernel,
    reference=_store_reference,
    cost=_store_cost,
    tolerance=_store_tolerance,
    check=check_sequences,
    comparable=_store_comparable,
    basic=(
        {
            "cache_dtype": ["bfloat16", "int8"],
            "q_head_num.kv_head_num.head_dim": [[16, 4, 128]],
            "attn_mode.batch_size.cache_len.q_len.block_size": [["prefill", 1, 128, 256, 0], ["decode", 16, 512, 1, 64]],
        },
    ),
)
KV_CACHE = {operator.name: operator for operator in (ROTARY_EMBEDDING, STORE_KV_CACHE)}
