"""How the spans of a run were joined to its requests: `spans` of run.json and summary.json."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.report.text import counted


class SpanFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`spans` of run.json. Of `received` spans `unmatched` ones belong to no request of this run; `requests` were joined, of `answered`
    ones; the spans of `outside` of them don't lie within their request, and give durations alone. `refused` messages by why.
    `offset_ns` bounds what the server's clock was ahead of this one, `applied_ns` is what was taken of it; None where no offset fits."""

    received: int
    unmatched: int
    requests: int
    answered: int
    outside: int
    refused: dict[str, int] = {}
    offset_ns: tuple[int, int] | None = None
    applied_ns: int | None = None


def span_facts_of(run: dict[str, Any]) -> SpanFacts | None:
    """From run.json; None where no spans were asked for. Raises msgspec.ValidationError."""
    facts = run.get("spans")
    return None if facts is None else msgspec.convert(facts, SpanFacts)


def span_warnings(facts: SpanFacts | None) -> list[str]:
    """Where the server's spans say less than they were asked for."""
    if facts is None:
        return []
    if not facts.received:
        cause = "no span of the server was received"
        return [f"{cause}: let it send them by OTLP with http/protobuf to the address that the run prints, see docs/metrics.md"]
    found = [f"the receiver of spans left out {counted(count, 'message')}: {why}" for why, count in facts.refused.items()]
    if facts.requests < facts.answered:
        found.append(f"{facts.answered - facts.requests:,} of {facts.answered:,} answered requests have no span of the server's")
    if facts.requests and facts.applied_ns is None:
        found.append("the server's spans lie within their requests by no offset of its clock: durations are shown, stages are not")
    elif facts.outside:
        found.append(f"spans of {counted(facts.outside, 'request')} don't lie within them: their durations are shown, their stages are not")
    return found
