"""Which events of an answer carry tokens, and how many: what the events show, and what `usage` adds to it.

An event with content was a token when it came, whatever `usage` says: so the first and the last of them are the answer's
first and last, and `usage` only says how many more came with them. An event with an empty content is a token in
mid-answer (a detokenizer that waits for the rest of a character) and none before the first content or after the finish
reason; at the end, behind the last content, it is one where `usage` counts it.
"""

from __future__ import annotations

from collections.abc import Sequence

from engines.openai.events import EMPTY, LAST_EMPTY, SAYS

UNSEEN_TOKENS = 64
"""Tokens that an answer may have besides those of its text and its empty events: markup of tool calls and chat formats."""


def count_tokens(
    carriers: list[int], count: int, said: int, most: int, texts: Sequence[str], reported: int | None
) -> tuple[list[int], int]:
    """Tokens of each event, and how many of them the events show by themselves, as near to what usage reports as they
    allow. `carriers` (1 for a token, else 0) are `count` of the `most` that could be, `said` of them have content; `reported` is
    the number that usage gives for what was streamed."""
    if reported is None or reported == count:
        return carriers, count
    shown = min(max(reported, said), most)
    if not count or reported < count or reported > _most_tokens(texts, most):
        return carriers, shown
    return spread(reported, carriers, texts), shown


def with_empty(marks: list[int], said: int, finished: int | None, reported: int | None) -> tuple[list[int], int]:
    """Carriers where some events are empty, and how many could be at most. `marks` are those of `openai_events`, `finished` is
    the place of the finish reason."""
    end = len(marks) if finished is None else finished
    empty = [index for index, mark in enumerate(marks[:end]) if mark == EMPTY]
    ending = [end] if end < len(marks) and marks[end] == LAST_EMPTY else []
    most = said + len(empty) + len(ending)
    if said:
        first, last = marks.index(SAYS), len(marks) - 1 - marks[::-1].index(SAYS)
        inner = [index for index in empty if first < index < last]
        after = [index for index in empty if index > last]
        if reported is not None and reported >= said + len(inner) + len(after):
            inner += after
        elif reported is not None and reported >= said:
            inner = inner[: reported - said]
    else:
        inner = empty + ending if reported and reported >= most else []
    tokens = [1 if mark == SAYS else 0 for mark in marks]
    for index in inner:
        tokens[index] = 1
    return tokens, most


def _most_tokens(texts: Sequence[str], most_events: int) -> int:
    """A streamed token has at least one byte of text (no vocabulary has smaller pieces), or an event of its own."""
    return len("".join(texts).encode("utf-8", "surrogatepass")) + most_events + UNSEEN_TOKENS


def spread(total_tokens: int, carriers: list[int], texts: Sequence[str]) -> list[int]:
    """Tokens of each event so that they sum to a total that is no smaller than the number of carriers.

    They go by length of text, largest remainder first, but each carrier has at least one. An estimate: a server that sends
    several tokens an event does not say how many.
    """
    indices = [index for index, carries in enumerate(carriers) if carries]
    if total_tokens == len(indices):
        return carriers
    weights = {index: max(len(texts[index]), 1) for index in indices}
    indices.sort(key=lambda index: (weights[index], index))
    whole, remaining, short = sum(weights.values()), total_tokens, 0
    while remaining * weights[indices[short]] < whole:  # its share is less than the one it has
        whole -= weights[indices[short]]
        remaining -= 1
        short += 1
    result = list(carriers)
    for index in indices[short:]:
        result[index] = remaining * weights[index] // whole
    remainders = sorted(indices[short:], key=lambda index: (-(remaining * weights[index] % whole), index))
    for index in remainders[: total_tokens - sum(result)]:
        result[index] += 1
    return result
