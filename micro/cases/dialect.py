"""What ByteMLPerf's workload files call otherwise than the operators here, and what of them changes nothing.

ByteMLPerf's attention has `mode` and `q_seq_len`; its session caches give the new tokens of all sequences together. Lengths
that it draws within 10 % of a mean are the mean here. Its experts are spread by `world_size` and `rank`, shared ones by
`dp_size` and `sp_size`, which change nothing where there are none. xpu-perf's tables of cache blocks say where a sequence lies,
not what is computed: blocks lie in random order here.
"""

from __future__ import annotations

import math

from micro.cases.case import FORMAT_ARGUMENTS, Arguments, BadCase
from micro.operators.contract import Args, Operator

SEQUENCE_NAMES = {"mode": "attn_mode", "phase": "attn_mode", "q_seq_len": "q_len"}
SESSION = "prefill_session_cache"
MOST_SEQUENCES = 1 << 20
PLACES = ("block_table", "slot_mapping")


def translated(operator: Operator, given: Args) -> Arguments:
    """A workload file's arguments by the operator's own names. Raises BadCase for what isn't measured."""
    names = {argument.name for argument in operator.arguments}
    args = {name: value for name, value in given.items() if name not in FORMAT_ARGUMENTS}
    if "q_lens" in names:
        args = _sequences(names, args)
    if "ep_rank" in names:
        args = _experts(names, args)
    if operator.name == "store_kv_cache" and "dst_dtype" in args:
        args["cache_dtype"] = args.pop("dst_dtype")
    if operator.name == "moe_softmax_topk":
        args.pop("hidden_size", None)  # of the product before it
    if operator.name == "softmax" and "kv_seq_len" in args:
        args = _scores(args)
    if "trans_w" not in names and args.get("trans_w") is True:
        del args["trans_w"]  # weights lie as [new_hidden_size, hidden_size] in any case
    return args


def _scores(given: Arguments) -> Arguments:
    """Attention's scores as rows: one for each sequence, head and new token."""
    args = {name: value for name, value in given.items() if name != "phase"}
    keys = args.pop("kv_seq_len")
    sizes = [args.pop(name, 1) for name in ("batch_size", "head_num", "q_seq_len")]
    if not all(isinstance(size, int) and 1 <= size <= MOST_SEQUENCES for size in sizes):
        raise BadCase(f"batch_size, head_num and q_seq_len are not sizes: {sizes}")
    return {**args, "batch_size": math.prod(sizes), "dim_size": keys}


def _sequences(names: set[str], given: Arguments) -> Arguments:
    args = {SEQUENCE_NAMES.get(name, name): value for name, value in given.items() if name not in PLACES}
    if "compute_dtype" in args and "qk_compute_dtype" in names:
        args["qk_compute_dtype"] = args["pv_compute_dtype"] = args.pop("compute_dtype")
    if "block_size" not in names:
        args.pop("block_size", None)  # rotary_embedding touches no cache
    if isinstance(args.get("kv_seq_len"), int) and isinstance(args.get("q_len"), int):
        args["cache_len"] = args.pop("kv_seq_len") - args["q_len"]
    if args.get("attn_mode") == SESSION:
        args |= {"attn_mode": "prefill", **_session(args)}
    if "attn_mode" not in names and args.get("attn_mode") == "decode":
        del args["attn_mode"]  # flash_decoding says so itself
    return args


def _session(args: Args) -> Arguments:
    """`q_len` new tokens in all, divided among the sequences."""
    total, sequences = args.get("q_len"), args.get("batch_size", 1)
    if not isinstance(total, int) or not isinstance(sequences, int) or not 1 <= sequences <= min(total, MOST_SEQUENCES):
        raise BadCase(f"{SESSION} needs a q_seq_len of at least one token for each of batch_size={sequences} sequences, not {total}")
    share, more = divmod(total, sequences)
    if not more:
        return {"q_len": share}
    return {"q_lens": [share + (sequence < more) for sequence in range(sequences)], "cache_lens": [args.get("cache_len", 0)] * sequences}


def _experts(names: set[str], given: Arguments) -> Arguments:
    args = dict(given)
    shared = args.pop("num_shared_experts", 0)
    if shared:
        raise BadCase(f"num_shared_experts={shared}: shared experts are not measured; moe_quant_matmul is their product")
    world = args.pop("world_size", args.get("ep_size", 1))
    if args.setdefault("ep_size", world) != world:
        raise BadCase(f"world_size={world} is not ep_size={args['ep_size']}")
    if "rank" in args:
        args["ep_rank"] = args.pop("rank")
    unused = {"dp_size", "sp_size"} - names
    return {name: value for name, value in args.items() if name not in unused}
