"""The prefix cache on the page and in the terminal: what it could have held of the prompts, what it did, and where the rest was lost."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.runs.kinds import Table

GROUP = "Prefix cache"
KINDS = ("reusable", "whole_block", "cached")
LOST = {
    "block": "no whole block",
    "in_flight": "earlier prompt still in flight, or failed",
    "elsewhere": "earlier prompt sent to another endpoint",
    "evicted": "evicted",
    "never_hit": "computed before, and never hit",
}


def prefix_rows(summary: dict[str, Any]) -> list[list[str | float | int | None]]:
    """For the table of results."""
    prefix = summary.get("prefix") or {}
    rows: list[list[str | float | int | None]] = []
    if prefix and prefix["total"]["prompt_tokens"]:
        rows.append(["prefix reusable / in blocks / cached", " / ".join(_share(prefix["total"], kind) for kind in KINDS)])
    if prefix and (server := prefix["server"]) and server["query_tokens"]:
        rows.append(["prefix cache hits (server's counters)", f"{server['hit_tokens'] / server['query_tokens']:.1%}"])
    if prefix and prefix["beyond_share"]:
        rows.append(["cached before the run", f"{prefix['beyond_share']:.1%} of prompt tokens"])
    return rows


def prefix_sections(summary: dict[str, Any]) -> list[Table]:
    """Nothing where no answer says what of it was cached, or nothing could have been. Of single requests the table of results has the sums,
    and these are a detail."""
    prefix = summary.get("prefix")
    if not prefix or not (prefix["total"]["reusable_tokens"] or prefix["total"]["cached_tokens"]):
        return []
    tables = [_reuse_table(prefix), *([_lost_table(prefix)] if any(prefix["lost"].values()) else [])]
    return [msgspec.structs.replace(table, detail=not prefix["by_turn"]) for table in tables]


def _reuse_table(prefix: dict[str, Any]) -> Table:
    named = [*prefix["by_turn"].items(), ("all", prefix["total"])]
    rows = [[name, reuse["answers"], reuse["prompt_tokens"], *(_share(reuse, kind) for kind in KINDS)] for name, reuse in named]
    note = (
        "Share of prompt tokens. Reusable: tokens that begin the prompt and were in an earlier prompt of the schedule, which an unbounded "
        f"prefix cache would hold. In blocks: what of it fills whole blocks of {prefix['block_tokens']} tokens, the largest number that "
        "divides every count of cached tokens. Cached: what the server reports. More than that was there before the run."
    )
    if prefix["answers_without"]:
        note += f" {prefix['answers_without']:,} responses are left out: their counts aren't known."
    columns = ["turn" if prefix["by_turn"] else "", "responses", "prompt tokens", "reusable", "in blocks", "cached"]
    return Table(title="Prefix reuse", columns=columns, rows=rows, note=note, group=GROUP, spare=("responses",))


def _lost_table(prefix: dict[str, Any]) -> Table:
    tokens = prefix["total"]["prompt_tokens"]
    rows = [[LOST[name], count, f"{count / tokens:.1%}"] for name, count in prefix["lost"].items() if count]
    note = "Reusable tokens that were not cached. Evicted: the server had computed them before this request was sent."
    return Table(title="Where reuse was lost", columns=["", "tokens", "of prompt tokens"], rows=rows, note=note, group=GROUP)


def _share(reuse: dict[str, Any], kind: str) -> str:
    return f"{reuse[f'{kind}_tokens'] / reuse['prompt_tokens']:.1%}" if reuse["prompt_tokens"] else "–"
