"""Reasoning in a response: which of its events have it where it is marked in the text, and where it begins and ends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, takewhile

from engines.contract import Thought

THINK, THINK_END = "<think>", "</think>"
"""How models mark their reasoning where nothing takes it out of the text."""


def marked(texts: Sequence[str], text: str) -> range:
    """The places of events whose text begins before the reasoning ends that is marked in an answer; all where it doesn't end."""
    end = text.find(THINK_END)
    begins = accumulate(map(len, texts), initial=0)
    return range(len(texts) if end < 0 else sum(1 for _ in takewhile((end + len(THINK_END)).__gt__, begins)))


def thought_of(thoughts: Sequence[int], per_event: Sequence[int], events_per_read: Sequence[int]) -> Thought | None:
    """None where no event of the reasoning carries a token."""
    tokens = sum(per_event[place] for place in thoughts)
    if not tokens:
        return None
    first, thinking, ends = next(place for place in thoughts if per_event[place]), set(thoughts), list(accumulate(events_per_read))
    answer = next((place for place in range(first, len(per_event)) if per_event[place] and place not in thinking), None)
    return Thought(bisect_right(ends, first), None if answer is None else bisect_right(ends, answer), tokens)
