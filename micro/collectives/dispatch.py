"""moe_dispatch_tokens: the all-to-all that brings tokens to the ranks of their experts.

Tokens are dealt to the ranks in order, num_tokens / world_size each; a rank holds experts
rank · num_experts / world_size and on. A rank's rows lie ready by expert, a token's once for each of its topk
experts, so that what is measured is the exchange; each rank gets the rows of rank 0, then of rank 1, …, of each
rank by expert, then by token. Who chooses which expert is the same in every run and known to every rank
beforehand, as it is where counts were exchanged before; the rows' values come from the seed.
"""

from __future__ import annotations

from typing import cast

from bytemlperf.lazy import numpy, torch
from micro.collectives.contract import BACKEND, AllInputs, RankMaker, world_size
from micro.operators.contract import Args, Argument, Maker, Operator, Run, Tensor, Tensors, dtype_argument
from micro.operators.llm_norm import HIDDEN, TOKENS
from micro.operators.routing import BALANCED, ROUTING_HELP, Routing, check_experts
from micro.operators.tensors import TensorSpec, integers_or_normal, moved, normal

SELECTION_SEED = 7
"""Not the case's: sizes of what is sent must be known when a kernel is built, which is told no seed."""


def experts_of(args: Args) -> int:
    """num_experts; 0 stands for topk on each rank, since xpu-perf names none."""
    return int(args["num_experts"] or args["topk"] * args["world_size"])


def received_rows(args: Args) -> list[int]:
    """Rows that come to each rank, its own ones among them."""
    here, counts = experts_of(args) // args["world_size"], _routing(args).all_counts
    return [sum(counts[first : first + here]) for first in range(0, len(counts), here)]


def received_bytes(args: Args) -> int:
    """Of the rank that gets most. All send equally much, so none moves more."""
    return _RECEIVED.bytes(args)


_RECEIVED = normal(lambda args: max(received_rows(args)), "hidden_size")


def split_sizes(args: Args) -> list[list[int]]:
    """[from][to] rows."""
    ranks = args["world_size"]
    target = _selection(args).long() // (experts_of(args) // ranks)
    return [torch.bincount(share.flatten(), minlength=ranks).tolist() for share in target.chunk(ranks)]


def _routing(args: Args) -> Routing:
    return Routing.of({**args, "num_experts": experts_of(args), "ep_size": args["world_size"], "ep_rank": 0})


def _selection(args: Args) -> Tensor:
    """[num_tokens, topk] int32 on the CPU: all ranks' tokens."""
    return _routing(args).selection(Maker(SELECTION_SEED, "cpu"))


def _share_size(args: Args) -> int:
    return int(args["num_tokens"] // args["world_size"])


SHARE = TensorSpec((_share_size, "hidden_size"), "dtype", integers_or_normal)
"""A rank's tokens: the first values that its maker makes."""


def _inputs(args: Args, make: Maker) -> Tensors:
    """The rows to send, by expert; and a buffer of random values, so that doing nothing is found out."""
    rank, x = cast(RankMaker, make).rank, SHARE.draw(args, make)
    chosen = _selection(args).chunk(args["world_size"])[rank]
    token = chosen.flatten().argsort(stable=True) // args["topk"]
    return x[token.to(x.device)], SHARE._replace(sizes=(received_rows(args)[rank], "hidden_size")).draw(args, make)


def _kernel(args: Args) -> Run:
    splits, rank = split_sizes(args), torch.distributed.get_rank()
    sent, got = splits[rank], [row[rank] for row in splits]

    def moe_dispatch_tokens(rows: Tensor, result: Tensor) -> Tensor:
        torch.distributed.all_to_all_single(result, rows, got, sent)
        return result

    return moe_dispatch_tokens


def _reference(args: Args, every: AllInputs) -> Tensor:
    """From all ranks' tokens, expert by expert: another way than `_inputs` and `split_sizes` go."""
    ranks, share, chosen = args["world_size"], _share_size(args), _selection(args).numpy()
    here = experts_of(args) // ranks
    parts = []
    for source in range(ranks):
        x, theirs = SHARE.draw(args, every.maker(source)), chosen[source * share : (source + 1) * share]
        for expert in range(every.rank * here, (every.rank + 1) * here):
            parts.append(x[torch.from_numpy(numpy.nonzero(theirs == expert)[0]).to(x.device)])
    return torch.cat(parts)


def _sent_rows(args: Args) -> int:
    return _share_size(args) * int(args["topk"])


def _check(args: Args) -> str:
    wrong = check_experts(args, experts_of(args), "world_size")
    if wrong or args["num_tokens"] % args["world_size"] == 0:
        return wrong
    return f"num_tokens={args['num_tokens']} can't be dealt to {args['world_size']} ranks; it must be a multiple of world_size"


MOE_DISPATCH_TOKENS = Operator(
    name="moe_dispatch_tokens",
    help="each rank's [num_tokens/world_size, hidden_size] to the ranks of their experts, an all-to-all of uneven parts",
    arguments=(
        world_size(2, 2),
        TOKENS,
        HIDDEN,
        Argument("num_experts", "int", "experts on all ranks; 0: topk on each", 0, low=0, high=1 << 16),
        Argument("topk", "int", "experts of a token", high=1 << 16),
        Argument("routing", "any", ROUTING_HELP, BALANCED),
        dtype_argument(("bfloat16", "float16", "float32", "int8"), default="bfloat16"),
        BACKEND,
    ),
    inputs=_inputs,
    kernel=_kernel,
    reference=_reference,
    cost=moved((normal(_sent_rows, "hidden_size"),), (_RECEIVED,), held=(normal(2, "num_tokens", "topk", "hidden_size"),)),
    check=_check,
    runner="ranks",
    writes=(1,),
    aliases={"ep_size": "world_size"},
)
