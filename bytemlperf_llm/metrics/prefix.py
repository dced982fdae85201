"""What of a run's prompts a prefix cache held, beside what an unbounded one would have held, and where the rest was lost."""

from __future__ import annotations

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.counted import total
from engines.contract import Counted

LATER_TURNS = 10
"""Turns from this one on are shown together."""
TEMPLATE_TOKENS = 64
"""A chat template's beginning, at most: where no tokenizer counts it, so many cached tokens of a prompt say nothing of earlier runs."""
WARN_BEYOND_SHARE = 0.05
"""Of prompt tokens, that were in the cache before the run: it moves TTFT by about as much."""


class PrefixReuse(msgspec.Struct, kw_only=True):
    """Sums over `answers` whose counts are all known. `reusable_tokens` is what an unbounded cache would hold of their prompts, from the
    schedule, `whole_block_tokens` as much of it as fills whole blocks and leaves a token to compute, and `cached_tokens` what the server
    reports. `beyond_tokens` are cached ones beyond those blocks: they were there before the run."""

    answers: int
    prompt_tokens: int
    reusable_tokens: int
    whole_block_tokens: int
    cached_tokens: int
    beyond_tokens: int


class Lost(msgspec.Struct, kw_only=True):
    """Reusable tokens that were not cached, by why: not in a whole `block`; the earlier prompt was still `in_flight`, or failed; it had
    been sent to another endpoint (`elsewhere`); `evicted`: the server had computed them and no longer had them; `never_hit`: it had
    computed them, and reports no hit in the whole run (no caching, or prompts that differ from their first block on, by a date in
    the template for example)."""

    block: int
    in_flight: int
    elsewhere: int
    evicted: int
    never_hit: int


class ServerCounts(msgspec.Struct, kw_only=True):
    """What the server's own counters of its prefix cache grew by during the run, other traffic included: tokens looked up, and found."""

    query_tokens: int
    hit_tokens: int


def server_counts(counted: Counted) -> ServerCounts | None:
    """Of all servers together; None where they don't count both."""
    queries, hits = total(counted, "prefix_queries"), total(counted, "prefix_hits")
    return None if queries is None or hits is None else ServerCounts(query_tokens=round(queries), hit_tokens=round(hits))


class PrefixCache(msgspec.Struct, kw_only=True):
    """`prefix` of summary.json. `block_tokens` is the largest number that divides every count of cached tokens; `by_turn` has turn 1, 2, …
    of sessions. `answers_without` could not be counted. `beyond_share` is of all prompt tokens, by the answers where they tell, else
    by the server's counters; None where neither does."""

    block_tokens: int
    total: PrefixReuse
    by_turn: dict[str, PrefixReuse]
    lost: Lost
    answers_without: int
    beyond_share: float | None
    server: ServerCounts | None = None


class PrefixFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What run.json tells besides the records. `counted`: a tokenizer counts what prompts share, their chat template included; `own` are
    places in the schedule, [from, to), whose prompts the run had sent before it measured."""

    counted: bool = False
    own: tuple[tuple[int, int], ...] = ()
    server: ServerCounts | None = None


def prefix_of(acc: Accumulator, facts: PrefixFacts) -> PrefixCache | None:
    """None where nothing says what was cached."""
    columns, ok = acc.columns, acc.rows("ok")
    known = numpy.all([columns[name][ok] != ABSENT for name in ("prompt", "reusable", "cached")], axis=0)
    rows = ok[known]
    if not len(rows) and facts.server is None:
        return None
    prompt, cached, turn = (columns[name][rows] for name in ("prompt", "cached", "turn"))
    reusable = numpy.minimum(columns["reusable"][rows], prompt)
    block = int(numpy.gcd.reduce(cached)) or 1
    whole = numpy.minimum(reusable, prompt - 1) // block * block
    beyond = numpy.maximum(cached - whole - (0 if facts.counted else TEMPLATE_TOKENS), 0)
    for start, end in facts.own:
        beyond[(columns["index"][rows] >= start) & (columns["index"][rows] < end)] = 0
    sums = numpy.stack([numpy.ones_like(prompt), prompt, reusable, whole, cached, beyond]) if len(rows) else numpy.zeros((6, 0), "i8")
    total = _reuse(sums)
    turns = numpy.where(turn == ABSENT, ABSENT, numpy.minimum(turn + 1, LATER_TURNS))
    return PrefixCache(
        block_tokens=block,
        total=total,
        by_turn={_turn_name(each): _reuse(sums[:, turns == each]) for each in sorted(set(turns.tolist()) - {ABSENT})},
        lost=_lost(columns, rows, reusable - whole, numpy.maximum(whole - cached, 0), hit=bool(cached.any())),
        answers_without=len(ok) - len(rows),
        beyond_share=total.beyond_tokens / total.prompt_tokens if total.prompt_tokens else _by_counters(acc, facts),
        server=facts.server,
    )


def _turn_name(turn: int) -> str:
    return f"{turn}+" if turn == LATER_TURNS else str(turn)


def _reuse(sums: Column) -> PrefixReuse:
    names = PrefixReuse.__struct_fields__
    return PrefixReuse(**dict(zip(names, map(int, sums.sum(axis=1)), strict=True)))


def _lost(columns: dict[str, Column], rows: Column, rounded: Column, missing: Column, *, hit: bool) -> Lost:
    """`rounded` and `missing` are of the rows."""
    order = numpy.argsort(columns["index"], kind="stable")
    places = numpy.searchsorted(columns["index"][order], columns["prefix"][rows]).clip(max=max(len(order) - 1, 0))
    earlier = order[places]
    answered = (columns["index"][earlier] == columns["prefix"][rows]) & (columns["first"][earlier] != ABSENT)
    computed = (columns["prefix"][rows] == ABSENT) | (answered & (columns["first"][earlier] <= columns["sent"][rows]))
    elsewhere = computed & (columns["prefix"][rows] != ABSENT) & (columns["endpoint"][earlier] != columns["endpoint"][rows])
    held = int(missing[computed & ~elsewhere].sum())
    return Lost(
        block=int(rounded.sum()),
        in_flight=int(missing[~computed].sum()),
        elsewhere=int(missing[elsewhere].sum()),
        evicted=held if hit else 0,
        never_hit=0 if hit else held,
    )


def _by_counters(acc: Accumulator, facts: PrefixFacts) -> float | None:
    """Where answers don't say what of them was cached: hits beyond all that could be reused; what isn't known of that counts as such."""
    if facts.server is None or not facts.server.query_tokens:
        return None
    prompt, reusable = (acc.columns[name][acc.rows("ok")] for name in ("prompt", "reusable"))
    usable = numpy.where(reusable == ABSENT, numpy.maximum(prompt, 0), reusable) + (0 if facts.counted else TEMPLATE_TOKENS)
    for start, end in facts.own:
        own = (acc.columns["index"][acc.rows("ok")] >= start) & (acc.columns["index"][acc.rows("ok")] < end)
        usable[own] = prompt[own]
    return max(facts.server.hit_tokens - int(usable.sum()), 0) / facts.server.query_tokens


def prefix_warnings(prefix: PrefixCache | None, state: str) -> list[str]:
    """Of a cache that was warm before a run that doesn't say so."""
    share = prefix and prefix.beyond_share
    if not share or share <= WARN_BEYOND_SHARE or state == "warm":
        return []
    fix = "other traffic, or another cache behind it, is in the figures" if state == "cold" else "take --cache cold, or say --cache warm"
    return [
        f"the server's prefix cache was warm: {share:.1%} of prompt tokens were in it beyond what this run's own prompts put there, and "
        f"TTFT and throughput are of that; {fix}"
    ]
