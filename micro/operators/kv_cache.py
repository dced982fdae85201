"""Sequences, their key and value cache, and the two operators that come before attention.

A case has `batch_size` sequences with `cache_len` tokens in the cache and `q_len` new ones, or differs by
sequence with `q_lens` and `cache_lens` (ByteMLPerf's batch_llm). Packed tokens are [tokens, q heads, k heads,
v heads] by head_dim. Caches are [blocks, kv_head_num, block_size, head_dim]: paged in random order, or linear,
which is one block of the longest sequence's length for each (block_size 0).

A quantised cache has a scale for each kv head and dimension: stored = round(value / scale), read = stored · scale.
Bytes count tokens, not whole blocks. Rotation costs three FLOPs a value: two products and a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from bytemlperf.lazy import torch
from micro.operators.contract import (
    DTYPES,
    EXACT,
    Args,
    Argument,
    Maker,
    Operator,
    Outputs,
    Run,
    SameAs,
    Sample,
    Tensor,
    Tensors,
    Tolerance,
    dtype_argument,
    rounding,
)
from micro.operators.product import FLOAT8_HALF_SMALLEST, FLOAT8_HALF_UNIT, HALF_STEP, LARGEST, as_stored
from micro.operators.tensors import ACTIVATIONS, REFERENCE_VALUES, moved, normal, spread_rows

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
        return cls(query, cached, args.get("block_size", 0) or max(new + old for new, old in zip(query, cached, strict=True)))

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

    def block_table(self, make: Maker) -> Tensor:
        """[sequences, blocks_per_sequence] int32, each block once. In order where one sequence is one block."""
        linear = self.blocks_per_sequence == 1
        order = make.values(list(range(self.blocks))) if linear else make.permutation(self.blocks)
        return order.view(len(self.query), -1).int()

    def positions(self, make: Maker) -> Tensor:
        """[tokens] int64: each new token's place in its sequence."""
        return make.values([old + offset for new, old in zip(self.query, self.cached, strict=True) for offset in range(new)])

    def slots(self, make: Maker, table: Tensor) -> Tensor:
        """[tokens] int64: block · block_size + place in the block, of each new token."""
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


def new_tokens(args: Args) -> int:
    """Tokens of all sequences that aren't in the cache yet."""
    return Sequences.of(args).tokens


def longest(args: Args) -> int:
    """Keys of the longest sequence."""
    return max(Sequences.of(args).lengths)


def cache_values(args: Args) -> int:
    """Of the whole k cache (or v), as allocated."""
    sequences = Sequences.of(args)
    return sequences.blocks * sequences.block_size * int(args["kv_head_num"] * args["head_dim"])


def quantised_normal(make: Maker, *shape: int, dtype: str) -> Tensor:
    """Standard normal once scaled: by 1, or by what `CACHE_SPREAD` says of a quantised format."""
    if dtype not in LARGEST:
        return make.normal(*shape, dtype=dtype)
    return as_stored(make.normal(*shape, scale=LARGEST[dtype] / CACHE_SPREAD), dtype)


def random_cache(args: Args, make: Maker, sequences: Sequences) -> Tensor:
    """[blocks, kv_head_num, block_size, head_dim] of the cache's dtype."""
    shape = (sequences.blocks, args["kv_head_num"], sequences.block_size, args["head_dim"])
    return quantised_normal(make, *shape, dtype=args["cache_dtype"])


def scales_of(make: Maker, dtype: str, *shape: int) -> Tensor:
    """float32, around what makes stored values of a quantised format standard normal."""
    step = CACHE_SPREAD / LARGEST[dtype]
    return make.uniform(0.5 * step, 1.5 * step, *shape)


def cache_scale(args: Args, make: Maker) -> Tensor:
    """[kv_head_num, head_dim] float32 of the cache."""
    return scales_of(make, args["cache_dtype"], args["kv_head_num"], args["head_dim"])


_PACKED = normal(new_tokens, lambda args: int(args["q_head_num"] + 2 * args["kv_head_num"]), "head_dim")
_PER_TOKEN = normal(new_tokens, dtype="int64")

# --- rotary_embedding -----------------------------------------------------------------------------------------


def different_positions(sequences: Sequences) -> int:
    """How many rows of a table by position are read: the union of the sequences' ranges."""
    covered, end = 0, 0
    for old, new in sorted(zip(sequences.cached, sequences.query, strict=True)):
        covered += max(0, old + new - max(old, end))
        end = max(end, old + new)
    return covered


def _turning_heads(args: Args) -> int:
    return int(args["q_head_num"] + args["kv_head_num"])


_TURNED = normal(new_tokens, _turning_heads, "rope_dim")
_ANGLES, _ANGLES_READ = (normal(2, rows, "rope_dim") for rows in (longest, lambda args: different_positions(Sequences.of(args))))


def _rope_check(args: Args) -> str:
    if args["rope_dim"] % 2:
        return f"rope_dim={args['rope_dim']} is odd"
    if args["rope_offset"] + args["rope_dim"] > args["head_dim"]:
        return f"rope_offset={args['rope_offset']} and rope_dim={args['rope_dim']} exceed head_dim={args['head_dim']}"
    return check_sequences(args)


def _rope_inputs(args: Args, make: Maker) -> Tensors:
    packed, positions = _PACKED.draw(args, make), Sequences.of(args).positions(make)
    frequencies = ROPE_BASE ** (-torch.arange(0, args["rope_dim"], 2, dtype=torch.float64) / args["rope_dim"])
    angles = (torch.arange(longest(args), dtype=torch.float64)[:, None] * frequencies).repeat(1, 2)
    return packed, positions, make.values(angles.cos(), args["dtype"]), make.values(angles.sin(), args["dtype"])


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The two halves of the last dimension are the parts of a complex number, turned by the angle."""
    left, right = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-right, left), -1) * sin[:, None]


def _turning_part(args: Args) -> tuple[slice, slice, slice]:
    """Of packed tokens: heads that turn, and of a head the values."""
    return slice(None), slice(0, _turning_heads(args)), slice(args["rope_offset"], args["rope_offset"] + args["rope_dim"])


def _rope_kernel(args: Args) -> Run:
    part = _turning_part(args)

    def rotary_embedding(packed: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        turned = packed[part]
        turned.copy_(_rotated(turned, cos[positions], sin[positions]))
        return packed

    return rotary_embedding


def _rope_reference(args: Args, inputs: Tensors) -> Sample:
    """Of evenly spread tokens where all are many: each is turned by itself."""
    packed, positions, cos, sin = inputs
    rows = spread_rows(packed.shape[0], packed[0].numel(), REFERENCE_VALUES)
    result, positions = packed[rows].double(), positions[rows]
    result[_turning_part(args)] = _rotated(result[_turning_part(args)], cos[positions].double(), sin[positions].double())
    return Sample(rows, result)


ROTARY_EMBEDDING = Operator(
    name="rotary_embedding",
    constant=lambda _args: (2, 3),
    writes=(0,),
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
    cost=moved((_TURNED, _ANGLES_READ, _PER_TOKEN), (_TURNED,), 3, *_TURNED.sizes, held=(_PACKED, _ANGLES, _PER_TOKEN)),
    tolerance=lambda args: rounding(args["dtype"], scale=2, cancels=2),  # the two products may cancel
    check=_rope_check,
)


# --- store_kv_cache -------------------------------------------------------------------------------------------


def _stored(args: Args) -> tuple[str, ...]:
    return ("k", "v") if args["store_mode"] == "both" else (args["store_mode"],)


def _kinds(args: Args) -> int:
    return len(_stored(args))


def _scaled_kinds(args: Args) -> int:
    return _kinds(args) if args["cache_dtype"] in LARGEST else 0


_NEW = normal(_kinds, new_tokens, "kv_head_num", "head_dim")
_STORED, _CACHES = _NEW._replace(dtype="cache_dtype"), normal(_kinds, cache_values, dtype="cache_dtype")
_SCALES = normal(_scaled_kinds, "kv_head_num", "head_dim", dtype="float32")


def _store_inputs(args: Args, make: Maker) -> Tensors:
    sequences, packed = Sequences.of(args), _PACKED.draw(args, make)
    caches = [random_cache(args, make, sequences) for _ in _stored(args)]
    slots = sequences.slots(make, sequences.block_table(make))
    return (packed, slots, *caches, *(cache_scale(args, make) for _ in range(_scaled_kinds(args))))


def _new_values(args: Args, packed: Tensor) -> list[Tensor]:
    q, kv = args["q_head_num"], args["kv_head_num"]
    return [packed[:, q : q + kv] if name == "k" else packed[:, q + kv :] for name in _stored(args)]


def _store_kernel(args: Args) -> Run:
    count, dtype = _kinds(args), args["cache_dtype"]

    def store_kv_cache(packed: Tensor, slots: Tensor, *caches_and_scales: Tensor) -> Tensors:
        caches, scales = caches_and_scales[:count], caches_and_scales[count:]
        block_size = caches[0].shape[2]
        for kind, (cache, values) in enumerate(zip(caches, _new_values(args, packed), strict=True)):
            if scales:
                values = as_stored(values.float() / scales[kind], dtype)
            cache[slots // block_size, :, slots % block_size] = values.to(cache.dtype)
        return caches

    return store_kv_cache


def _store_reference(args: Args, inputs: Tensors) -> Tensors:
    """What lies at the tokens' slots, not rounded, and that nothing else changed."""
    packed, scales = inputs[0], inputs[2 + _kinds(args) :]
    values, largest = [part.double() for part in _new_values(args, packed)], LARGEST.get(args["cache_dtype"])
    if largest:
        values = [(part / scale.double()).clamp(-largest, largest) for part, scale in zip(values, scales, strict=True)]
    return (*values, torch.zeros(1))


def _store_comparable(_args: Args, inputs: Tensors, outputs: Outputs) -> Tensors:
    slots, caches = inputs[1], outputs if isinstance(outputs, tuple | list) else (outputs,)
    stored, elsewhere = [], 0
    for before, cache in zip(inputs[2:], caches, strict=False):
        block, offset = slots // cache.shape[2], slots % cache.shape[2]
        stored.append(cache[block, :, offset])
        changed = (cache.view(torch.uint8) != before.view(torch.uint8)).view(*cache.shape[:3], -1).any(-1)
        changed[block, :, offset] = False
        elsewhere += int(changed.sum())
    return (*stored, torch.tensor([float(elsewhere)]))


def _store_tolerance(args: Args) -> tuple[Tolerance, ...]:
    float32, half = DTYPES["float32"].epsilon, DTYPES[args["cache_dtype"]].epsilon / 2
    stored = Tolerance(half, 1e-7)  # converted once; exact where both dtypes are the same
    if args["cache_dtype"] == "int8":
        stored = Tolerance(0, HALF_STEP + 128 * 4 * float32)
    elif args["cache_dtype"] in LARGEST:
        stored = Tolerance(FLOAT8_HALF_UNIT + 4 * float32, FLOAT8_HALF_SMALLEST)
    return (*(stored for _ in _stored(args)), EXACT)


STORE_KV_CACHE = Operator(
    name="store_kv_cache",
    writes=(2, 3),
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
    cost=moved((_NEW, _PER_TOKEN, _SCALES), (_STORED,), 2, _scaled_kinds, *_NEW.sizes[1:], held=(_PACKED, _CACHES)),  # divided, rounded
    tolerance=_store_tolerance,
    check=check_sequences,
    comparable=_store_comparable,
)
KV_CACHE = (ROTARY_EMBEDDING, STORE_KV_CACHE)
