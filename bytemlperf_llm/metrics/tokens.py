"""Tokens of a run: what usage reports, what the streams show, and what a reader must know of both.

A chunk is not a token. What usage reports is held against the events that came, before any token is spread over them; a
record has both numbers (`usage_tokens`, `shown_tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from operator import attrgetter

import msgspec

from bytemlperf_llm.metrics.recount import Recount
from bytemlperf_llm.record.record import RequestRecord, usage_tokens_of

WARN_DISAGREEMENT = 0.005
"""Reported usage against tokens that the stream shows: half a per cent, a token in two hundred."""

SMALL_SHARE = 0.001
"""Less is not printed as 0.0 %."""

MIN_TOKENS_TO_BUNDLE = 8
BUNDLED_FIRST_SHARE = 0.25
BUNDLED_SILENCE_SHARE = 0.9
"""A response of at least 8 tokens came bundled when a quarter of them was in its first chunk, or one silence took nine tenths
of the time between its first token and its last: its TTFT or its ITL is then a bundle's."""

WARN_BUNDLED_SHARE = 0.05
_REPORTED = ("reasoning_tokens", "cached_tokens", "accepted_draft_tokens")


class Tokens(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Token totals of answered requests. `prompt_tokens` is None while any answer lacks its count.

    `stream_tokens` were seen in the stream, in `stream_chunks` reads that brought any (None in older
    summaries). Over the answers that report usage, `usage_tokens` is what it reports of what was streamed, `shown_tokens` what
    their events show by themselves, and `usage_disagreement` is Σ|reported − shown| over Σreported, None where none does.
    `answers_usage_not_taken` reported a usage that their events contradict, or that no text of theirs can have.
    `reasoning_tokens`, `cached_tokens` (of prompts) and `accepted_draft_tokens` are as reported, None where no answer does;
    `images` were sent, of so many bytes before base64.
    `hidden_tokens` of reasoning were not streamed and are in no other count. `recount` is there where the model's
    tokenizer is known.
    """

    prompt_tokens: int | None
    output_tokens: int
    stream_tokens: int
    answers_without_usage: int
    answers_without_prompt_count: int
    usage_disagreement: float | None
    batched_token_share: float | None
    stream_chunks: int | None = None
    usage_tokens: int = 0
    shown_tokens: int = 0
    answers_usage_not_taken: int = 0
    bundled_answers: int = 0
    reasoning_tokens: int | None = None
    hidden_tokens: int = 0
    cached_tokens: int | None = None
    accepted_draft_tokens: int | None = None
    images: int = 0
    image_bytes: int = 0
    recount: Recount | None = None


class TokenTally:
    """Adds up answers in `tokens`, what they say of themselves; the order changes nothing."""

    def __init__(self) -> None:
        self.tokens = Tokens(
            prompt_tokens=None,
            output_tokens=0,
            stream_tokens=0,
            answers_without_usage=0,
            answers_without_prompt_count=0,
            usage_disagreement=None,
            batched_token_share=None,
        )
        self._apart = 0

    def add_all(self, answers: Sequence[RequestRecord], silences_ns: Sequence[int], spans_ns: Sequence[int]) -> None:
        """Take in answers, of each its largest gap between chunks and the time from its first token to its last."""
        tokens = self.tokens
        tokens.images += sum(record.images for record in answers)
        tokens.image_bytes += sum(record.image_bytes for record in answers)
        for record, silence_ns, span_ns in zip(answers, silences_ns, spans_ns, strict=True):
            output = record.output_tokens
            if output >= MIN_TOKENS_TO_BUNDLE and not record.inputs:
                first = next(filter(None, record.tokens_per_chunk), 0)
                tokens.bundled_answers += first >= BUNDLED_FIRST_SHARE * output or silence_ns > BUNDLED_SILENCE_SHARE * span_ns
        streamed = [record for record in answers if not record.inputs]
        self._compare(streamed)
        tokens.hidden_tokens += sum(record.hidden_tokens for record in streamed if record.reasoning_tokens is not None)
        for name in _REPORTED:
            reported = [count for count in map(attrgetter(name), streamed) if count is not None]
            if reported:
                setattr(tokens, name, (getattr(tokens, name) or 0) + sum(reported))

    def _compare(self, streamed: Sequence[RequestRecord]) -> None:
        tokens = self.tokens
        for record, usage in zip(streamed, map(usage_tokens_of, streamed), strict=True):
            if usage is None:
                tokens.answers_without_usage += 1
                continue
            shown = sum(record.tokens_per_chunk) if record.shown_tokens is None else record.shown_tokens
            tokens.usage_tokens += usage
            tokens.shown_tokens += shown
            if shown != usage:
                self._apart += abs(usage - shown)
                tokens.answers_usage_not_taken += record.token_source == "chunks"  # noqa: S105

    @property
    def disagreement(self) -> float | None:
        """Σ|reported − shown| over Σreported."""
        return float(Fraction(self._apart, self.tokens.usage_tokens)) if self.tokens.usage_tokens else None


def token_warnings(tokens: Tokens, answers: int) -> list[str]:
    """How far token counts, and the times of tokens, can be trusted."""
    return [*_usage_warnings(tokens, answers), *_bundle_warnings(tokens, answers)]


def _usage_warnings(tokens: Tokens, answers: int) -> list[str]:
    found = []
    if tokens.usage_disagreement is not None and tokens.usage_disagreement > WARN_DISAGREEMENT:
        found.append(_disagreement(tokens, answers))
    if tokens.answers_without_usage:
        found.append(
            f"{tokens.answers_without_usage} of {answers} responses reported no usable usage: their output tokens are counted chunks"
        )
    if tokens.hidden_tokens:
        found.append(
            f"{tokens.hidden_tokens:,} reasoning tokens were generated and not streamed: output tokens, TPOT and tokens/s are of the "
            "visible ones, and TTFT holds the time of the reasoning"
        )
    return found


def _disagreement(tokens: Tokens, answers: int) -> str:
    found = (
        f"the server's usage and the events of its streams differ by {tokens.usage_disagreement:.1%}: "
        f"{tokens.usage_tokens:,} tokens against {tokens.shown_tokens:,}"
    )
    if tokens.answers_usage_not_taken:
        found += (
            f"; in {tokens.answers_usage_not_taken} of {answers} responses usage can't be right (fewer tokens than events with text, "
            "or more than their text can have), and events are counted"
        )
    if tokens.answers_usage_not_taken + tokens.answers_without_usage < answers:
        found += (
            "; where usage has more, several tokens came in one event, or it counts what was not streamed: TPOT and tokens/s go by "
            "usage (by events: --engine-option usage=false)"
        )
    return found


def _bundle_warnings(tokens: Tokens, answers: int) -> list[str]:
    found = []
    if tokens.batched_token_share:
        share = f"{tokens.batched_token_share:.1%}" if tokens.batched_token_share >= SMALL_SHARE else f"under {SMALL_SHARE:.1%}"
        found.append(f"{share} of tokens came in bursts of several: their ITL is the time since the burst before, shared evenly")
    if tokens.bundled_answers > WARN_BUNDLED_SHARE * answers:
        found.append(
            f"{tokens.bundled_answers} of {answers} responses came bundled: a quarter or more of their tokens in the first chunk, or "
            "nearly all of their time in one silence. The server or a proxy held tokens back (or stalled): TTFT and ITL are of bundles"
        )
    return found
