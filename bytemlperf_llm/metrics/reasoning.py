"""Reasoning: which responses had some, whether their streams tell it apart from the answer, and tokens of both.

A stream tells it apart by a field of its own (`reasoning_content`, `reasoning`, thinking blocks) or by `<think>` at its begin. Where usage
alone counts it, tokens are known and times are not.
"""

from __future__ import annotations

import msgspec

from bytemlperf.statistics.columns import ABSENT, total_of
from bytemlperf_llm.metrics.accumulator import Accumulator


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """`responses` have reasoning, and `streamed` of them show it in their streams; `unanswered` of these ended before a token of the
    answer. `times_missing` says why the others have no times, empty where all have some."""

    responses: int
    streamed: int
    unanswered: int
    reasoning_tokens: int
    answer_tokens: int
    times_missing: str


def reasoning_of(acc: Accumulator) -> Reasoning | None:
    """None where no answered request had any."""
    columns, rows = acc.columns, acc.rows("ok")
    rows = rows[columns["reasoning_tokens"][rows] != ABSENT]
    if not len(rows):
        return None
    streamed = columns["reasoning_at"][rows] != ABSENT
    missing = len(rows) - int(streamed.sum())
    return Reasoning(
        responses=len(rows),
        streamed=int(streamed.sum()),
        unanswered=int((columns["answer_at"][rows][streamed] == ABSENT).sum()),
        reasoning_tokens=total_of(columns["reasoning_tokens"][rows]),
        answer_tokens=total_of(columns["answer_tokens"][rows]),
        times_missing=f"usage alone counts the reasoning of {missing:,} responses: their streams don't show it" if missing else "",
    )
