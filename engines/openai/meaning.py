"""What the events of one OpenAI-style answer say together: its text, its tokens, how it ended."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engines.contract import FAILED_REASONS, FINISH_REASONS, Decoded, Usage
from engines.openai.events import SAYS, THINKS, Event, error_words, finish_of, text_of, usage_of
from engines.openai.tokens import count_tokens, with_empty
from engines.openai.usage import hidden_tokens
from engines.thought import THINK, marked, thought_of


class Meaning(msgspec.Struct, gc=False):
    """What events say together: their texts and marks, the finish reason and the place of the first, how many have content, usage,
    the first error. `foreign`: one of them may be an error in a form of the server's own, which only the slow path looks at.
    `thoughts`: the places of those that have reasoning alone. `reasoning`: some of it was streamed."""

    texts: list[str]
    marks: list[int]
    reason: str | None
    finished: int | None
    said: int
    doubtful: bool
    foreign: bool
    error: str
    usage: Usage | None
    thoughts: list[int]
    reasoning: bool


def meaning_of(events: Sequence[Event], *, usage: bool) -> Meaning:
    """Runs once per response, so it calls no more than it must. Without `usage`, what they report is left aside."""
    texts: list[str] = []
    marks: list[int] = []
    thoughts: list[int] = []
    reason: str | None = None
    finished: int | None = None
    reported: Usage | None = None
    error, said, doubtful, foreign = "", 0, False, False
    for event in events:
        text, mark, choices, counts = "", 0, event.choices, event.usage
        if choices:
            choice = choices[0]
            text, mark = text_of(choice)
            if mark == SAYS:
                said += 1
            elif mark == THINKS:
                said += 1
                mark = SAYS
                thoughts.append(len(marks))
            elif mark < 0:
                doubtful = True
            ended = choice.finish_reason
            if ended and (ended in FINISH_REASONS or (ended := finish_of(choice))):
                reason = ended  # the first one ends the tokens, the last is the answer's
                finished = len(marks) if finished is None else finished
            if choice.error is not None:
                error = error or error_words(choice.error)
            counts = counts or choice.usage
        elif event.object == "error" or (counts is None and (said or choices is None) and event.is_foreign):
            foreign = True  # Azure begins with one without choices
        if counts is not None or event.x_groq is not None:
            reported = usage_of(event) or reported
        if event.error is not None:
            error = error or error_words(event.error)
        texts.append(text)
        marks.append(mark)
    thinks = usage and reported is not None and reported.reasoning_tokens
    reasoning = bool(thoughts) or (bool(thinks) and any(choice.reasons for event in events for choice in event.choices or ()))
    return Meaning(texts, marks, reason, finished, said, doubtful, foreign, error, reported if usage else None, thoughts, reasoning)


def assemble(meaning: Meaning, events_per_read: Sequence[int], *, done: bool) -> Decoded:
    """The answer, with the tokens of each read. `done`: whether the stream said that it ended."""
    usage, reason, text = meaning.usage, meaning.reason, "".join(meaning.texts)
    thoughts = meaning.thoughts or (marked(meaning.texts, text) if text.startswith(THINK) else ())
    reported, hidden = None if usage is None else usage.output_tokens, 0
    if usage is not None and reported is not None and usage.reasoning_tokens:
        hidden = hidden_tokens(usage, meaning.said, reasoning_streamed=meaning.reasoning or bool(thoughts))
        reported -= hidden
    carriers, tokens, most = meaning.marks, meaning.said, meaning.said
    if meaning.doubtful:
        carriers, most = with_empty(meaning.marks, meaning.said, meaning.finished, reported)
        tokens = sum(carriers)
    most += reason is not None and reason != "length"  # the token that ended it has no text
    if reported == tokens:  # as nearly always
        per_event, shown = carriers, tokens
    else:
        per_event, shown = count_tokens(carriers, tokens, meaning.said, most, meaning.texts, reported)
    decoded = Decoded(
        tokens_per_chunk=_per_read(per_event, events_per_read),
        text=text,
        reason=reason,
        usage=usage,
        shown_tokens=shown,
        hidden_tokens=hidden,
    )
    if thoughts:
        decoded.thought = thought_of(thoughts, per_event, events_per_read)
    if meaning.error:
        decoded.error_class, decoded.error_detail = "error_in_stream", meaning.error
    elif reason in FAILED_REASONS:
        decoded.error_class, decoded.error_detail = "error_in_stream", f"the server aborted the response: finish reason '{reason}'"
    elif not meaning.texts and not done:
        decoded.error_class, decoded.error_detail = "malformed_stream", "no event in the response"
    elif not done and reason is None:
        decoded.error_class, decoded.error_detail = "truncated_stream", "stream ended without [DONE] and without a finish reason"
    return decoded


def _per_read(tokens_per_event: Sequence[int], events_per_read: Sequence[int]) -> list[int]:
    """Tokens of each read, from tokens of each event."""
    middle = len(events_per_read) - 2
    if middle > 0 and events_per_read[1:-1].count(1) == middle:
        first = events_per_read[0]
        last = first + middle
        return [sum(tokens_per_event[:first]), *tokens_per_event[first:last], sum(tokens_per_event[last:])]
    if middle == -1:
        return [sum(tokens_per_event)]
    result: list[int] = []
    start = 0
    for count in events_per_read:
        if count == 1:
            result.append(tokens_per_event[start])
        else:
            result.append(sum(tokens_per_event[start : start + count]))
        start += count
    return result
