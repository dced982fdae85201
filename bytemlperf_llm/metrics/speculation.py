"""Speculative decoding and multi-token steps: how many tokens a step brings, by the streams, and what became of drafts, by the engine.

A step is a burst of tokens of one stream (definitions.BURST_NS) after its first; in a stream of single tokens it is a token. Where the
engine counts drafts, its acceptance length is 1 + accepted / drafts tokens a step, the one that verification yields included, and its
acceptance rate is accepted / drafted (vLLM's `SpecDecodingLogging`; Leviathan, Kalman and Matias, "Fast Inference from Transformers via
Speculative Decoding", ICML 2023). A server or proxy that bundles tokens looks like speculation by the streams alone.
"""

from __future__ import annotations

from itertools import count, takewhile

import msgspec

from bytemlperf.statistics.columns import Column, total_of
from bytemlperf.statistics.statistics import Interval, mean_interval
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.counted import total
from bytemlperf_llm.metrics.facts import RunFacts
from engines.contract import Counted

SEVERAL = 1.05
"""Tokens a step from which on it is told: fewer are tokens that happened to arrive together."""


class Drafts(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine counted over the measured part, other traffic included. `acceptance_length` is None where it doesn't count drafts;
    `acceptance_at` are the shares of drafts whose first, second, … token was accepted, none where it doesn't tell."""

    drafts: int | None
    draft_tokens: int
    accepted_tokens: int
    acceptance_length: float | None
    acceptance_rate: float
    acceptance_at: list[float]


class TokensPerStep(msgspec.Struct, frozen=True, kw_only=True):
    """All tokens over all steps, and the 95 % interval of that ratio over requests."""

    mean: float
    ci95: Interval


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens_per_step` of all `steps` of answers, and of each class of requests. `step_sizes`: steps by their number of tokens, the
    largest with all beyond it. `accepted_per_answer`: draft tokens by usage, where it tells."""

    steps: int
    tokens_per_step: TokensPerStep | None
    step_sizes: dict[str, int]
    by_class: dict[str, TokensPerStep]
    accepted_per_answer: float | None
    drafts: Drafts | None


def speculation_of(acc: Accumulator, facts: RunFacts, counted: Counted) -> Speculation | None:
    """`counted` is the engine's own of the measured part. None where neither it nor the streams nor usage show more than a token a
    step."""
    drafts, accepted = drafts_of(counted), acc.tokens.tokens.accepted_draft_tokens
    per_step = _tokens_per_step(acc, acc.rows("ok"))
    if drafts is None and not accepted and (per_step is None or per_step.mean < SEVERAL):
        return None
    parts = {each.name: acc.part("class_name", each.name) for each in facts.classes}
    by_class = {name: _tokens_per_step(part, part.rows("ok")) for name, part in parts.items()}
    return Speculation(
        steps=int(acc.step_sizes.sum()),
        tokens_per_step=per_step,
        step_sizes={str(tokens): steps for tokens, steps in enumerate(acc.step_sizes.tolist()) if steps},
        by_class={name: value for name, value in by_class.items() if value is not None},
        accepted_per_answer=accepted / acc.outcomes["ok"] if accepted else None,
        drafts=drafts,
    )


def drafts_of(counted: Counted) -> Drafts | None:
    """Of all servers together; None where nothing was drafted."""
    drafts, drafted, accepted = (round(total(counted, name) or 0) for name in ("drafts", "draft_tokens", "accepted_tokens"))
    if drafted <= 0:
        return None
    places = (total(counted, f"accepted_tokens_at_{place}") for place in count())
    at = list(takewhile(lambda accepted_at: accepted_at is not None, places))
    return Drafts(
        drafts=drafts or None,
        draft_tokens=drafted,
        accepted_tokens=accepted,
        acceptance_length=1 + accepted / drafts if drafts else None,
        acceptance_rate=accepted / drafted,
        acceptance_at=[accepted_at / drafts for accepted_at in at if accepted_at is not None] if drafts else [],
    )


def _tokens_per_step(acc: Accumulator, rows: Column) -> TokensPerStep | None:
    """None where no stream has a second step."""
    rows = rows[acc.columns["silences"][rows] > 0]
    tokens, steps = acc.columns["step_tokens"][rows], acc.columns["silences"][rows]
    return TokensPerStep(mean=total_of(tokens) / total_of(steps), ci95=mean_interval(tokens, steps)) if len(rows) else None
