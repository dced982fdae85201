"""Which expert takes which token, without a model: balanced, by Zipf's law, or from a file of counts.

`spread` says how many tokens an expert gets, from the arguments alone, so that costs need no tensors.
`Routing` adds who gets them: a token's experts all differ. Balanced routing is ByteMLPerf's: token t takes
the next topk experts round robin, in an order that alternates between ranks. Otherwise experts lie one
after the other and their slots are dealt to the tokens in turn, which keeps each rank's slots together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from bytemlperf.lazy import torch
from engines.untrusted import decode_json
from micro.operators.contract import Args, Argument, Maker, Tensor

ROUTING_HELP = "tokens of experts: balanced, zipf (exponent 1), zipf:EXPONENT, or a JSON file with a list of their counts"
BALANCED, ZIPF = "balanced", "zipf"
MAX_EXPONENT = 8.0

MOE_ARGUMENTS = (
    Argument("num_experts", "int", "experts on all ranks", high=1 << 16),
    Argument("topk", "int", "experts of a token", high=1 << 16),
    Argument("ep_size", "int", "ranks that share the experts", 1),
    Argument("ep_rank", "int", "the rank that is measured", 0, low=0),
    Argument("routing", "any", ROUTING_HELP, BALANCED),
)


def check_routing(routing: object, parts: int) -> str:
    """What is wrong with it, "" where nothing is."""
    try:
        _weights(routing, parts)
    except ValueError as error:
        return f"routing={routing!r}: {error}"
    return ""


def check_experts(args: Args, experts: int, ranks: str) -> str:
    """What is impossible about so many experts on as many ranks as the argument of that name says."""
    if args["topk"] > experts:
        return f"topk={args['topk']} is more than num_experts={experts}"
    if experts % args[ranks]:
        return f"{ranks}={args[ranks]} does not divide num_experts={experts}"
    return check_routing(args["routing"], experts)


def check_moe(args: Args) -> str:
    """What is impossible about the MoE arguments."""
    wrong = check_experts(args, args["num_experts"], "ep_size")
    if wrong:
        return wrong
    if args["ep_rank"] >= args["ep_size"]:
        return f"ep_rank={args['ep_rank']} is not one of the ep_size={args['ep_size']} ranks"
    return "" if Routing.of(args).rows else f"no token comes to rank {args['ep_rank']}"


def _weights(routing: object, parts: int) -> list[float]:
    if routing == BALANCED:
        return [1.0] * parts
    if not isinstance(routing, str):
        raise ValueError("it is not text")
    name, _, exponent = routing.partition(":")
    if name == ZIPF:
        power = float(exponent or 1.0)
        if not 0 <= power <= MAX_EXPONENT:
            raise ValueError(f"the exponent is not within 0 and {MAX_EXPONENT:g}")
        return [(rank + 1.0) ** -power for rank in range(parts)]
    return _counts_of_file(Path(routing), parts)


def _counts_of_file(path: Path, parts: int) -> list[float]:
    try:
        counts = decode_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"it is neither {BALANCED}, {ZIPF} nor a file that can be read ({error.strerror})") from None
    if not isinstance(counts, list) or len(counts) != parts:
        raise ValueError(f"the file is not a list of {parts} counts")
    if not all(isinstance(count, int | float) and count >= 0 for count in counts) or not sum(counts):
        raise ValueError("a count is not a number of 0 or more, or all are 0")
    return [float(count) for count in counts]


def spread(total: int, parts: int, routing: object, most: int | None = None) -> list[int]:
    """`total` over `parts` by the routing's weights, none more than `most`. Largest remainders; ties go to the first."""
    weights = _weights(routing, parts)
    if most is not None and most * sum(1 for weight in weights if weight) < total:
        weights = [weight or 1e-9 * max(weights) for weight in weights]  # too few experts are used to hold all: the others take the rest
    shares = _capped(total, weights, most)
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(parts), key=lambda part: (counts[part] - shares[part], part))
    left = total - sum(counts)
    while left:
        before = left
        for part in by_remainder:
            if left and (most is None or counts[part] < most) and weights[part]:
                counts[part] += 1
                left -= 1
        if left == before:
            raise ValueError("more than all parts together can hold")
    return counts


def _capped(total: int, weights: Sequence[float], most: int | None) -> list[float]:
    """Proportional shares; what exceeds `most` goes to the others in proportion."""
    full: set[int] = set()
    while True:
        left = total - len(full) * (most or 0)
        weight = sum(value for part, value in enumerate(weights) if part not in full)
        shares = [float(most or 0) if part in full else left * value / weight if weight else 0.0 for part, value in enumerate(weights)]
        over = {part for part, share in enumerate(shares) if most is not None and part not in full and share > most}
        if not over:
            return shares
        full |= over


@dataclass(frozen=True)
class Routing:
    """One rank's part. `counts` are tokens of each of its experts, `rows` all of them, `used_tokens` different
    tokens among those; `first` its first expert."""

    tokens: int
    topk: int
    experts: int
    first: int
    counts: tuple[int, ...]
    used_tokens: int
    balanced: bool
    all_counts: tuple[int, ...]
    ranks: int

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def offsets(self) -> list[int]:
        """Where each of the rank's experts begins among its rows."""
        return [0, *accumulate(self.counts)][:-1]

    @classmethod
    def of(cls, args: Args) -> Routing:
        """From a case's arguments: num_tokens and `MOE_ARGUMENTS`."""
        tokens, topk, experts, ranks, rank = (args[name] for name in ("num_tokens", "topk", "num_experts", "ep_size", "ep_rank"))
        here, balanced = experts // ranks, args["routing"] == BALANCED
        if balanced:
            order = round_robin(experts, ranks)
            counts = [0] * experts
            for turn, count in enumerate(spread(tokens * topk, experts, BALANCED)):
                counts[order[turn]] = count
        else:
            counts = spread(tokens * topk, experts, args["routing"], most=tokens)
        mine = tuple(counts[rank * here : (rank + 1) * here])
        used = _used_balanced(tokens, topk, ranks, rank) if balanced else min(tokens, sum(mine))
        return cls(tokens, topk, experts, rank * here, mine, used, balanced, tuple(counts), ranks)

    def selection(self, make: Maker) -> Tensor:
        """[tokens, topk] int32 experts, tokens in random order; none twice in a row."""
        if self.balanced:
            order = torch.tensor(round_robin(self.experts, self.ranks))
            chosen = order[torch.arange(self.tokens * self.topk) % self.experts].view(self.tokens, self.topk)
        else:
            slots = torch.repeat_interleave(torch.arange(self.experts), torch.tensor(self.all_counts))
            chosen = slots.view(self.topk, self.tokens).t()  # slot i is token i mod tokens: no expert has more slots than that
        return make.values(chosen, "int32")[make.permutation(self.tokens)]


def round_robin(experts: int, ranks: int) -> list[int]:
    """Experts in turn over ranks: the first of each, the second of each, …"""
    here = experts // ranks
    return [rank * here + turn for turn in range(here) for rank in range(ranks)]


def _used_balanced(tokens: int, topk: int, ranks: int, rank: int) -> int:
    """Tokens of which some expert is on the rank: token t's experts are on ranks t·topk, t·topk + 1, … modulo
    `ranks`, which repeats after `ranks` tokens."""
    if topk >= ranks:
        return tokens
    hits = [(rank - token * topk) % ranks < topk for token in range(ranks)]
    return tokens // ranks * sum(hits) + sum(hits[: tokens % ranks])
