"""What the beginning of a prompt has in common with earlier prompts of the schedule: what an unbounded prefix cache would hold of it.

Prompts are compared as the server sees them, behind their chat template where it is known. Of all earlier ones the longest common beginning
is with a neighbour in alphabetical order, so one sorted list finds it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import msgspec

from bytemlperf_llm.plan.scenario import Prompts
from bytemlperf_llm.workload.salt import SALT_IDS, salted_messages
from bytemlperf_llm.workload.synthesis import OPENING
from bytemlperf_llm.workload.token_counter import TokenCounter, counter_for
from engines.contract import Message

LEAST_CHARACTERS = 16
"""A shorter beginning is no block of tokens, whatever the tokenizer: without one it counts as none."""
MOST_CHARACTERS = 64_000_000
"""Of prompts that are kept to be compared with: with more, later ones are only compared."""


class Prefix(msgspec.Struct, frozen=True):
    """Tokens that begin a prompt and were in request `index` of the schedule, the first that had them as far as is known; `tokens` None:
    no tokenizer counts them. `whole`: that request had the same prompt."""

    index: int | None
    tokens: int | None = None
    whole: bool = False


NOTHING = Prefix(None, 0)


class PrefixIndex:
    """The prompts so far, in the order of the schedule, as a scenario's `prompts` have them counted and salted."""

    def __init__(self, keys: Prompts) -> None:
        self._keys = keys
        self._prompts: list[tuple[str, int]] = []
        self._wholes: dict[str, int] = {}
        self._firsts: dict[int, int] = {}
        self._blocks: dict[int, int] = {}
        self._cut: dict[int, int] = {}
        self._last: tuple[str, Sequence[int], list[int]] = "", (), []
        self._characters = 0

    @cached_property
    def counter(self) -> TokenCounter:
        """Loaded when it is first needed. Raises UserError."""
        return counter_for(self._keys.tokenizer, self._keys.template)

    @cached_property
    def _tokens(self) -> Callable[[str], int]:
        return lru_cache(maxsize=1024)(self.counter.text)

    @cached_property
    def head(self) -> int:
        """Tokens that all prompts share whatever their words: a chat template's, and a salt's; 0 where no tokenizer is known."""
        return self._shared_head("")

    @cached_property
    def _made_head(self) -> int:
        return self._shared_head(OPENING)

    @cached_property
    def _tail(self) -> int:
        message = Message(role="user", content=OPENING)
        return self.counter.prompt((message,)) - self.counter.head(OPENING) if self.counter.exact else 0

    @cached_property
    def _salt_tokens(self) -> int:
        unsalted = msgspec.structs.replace(self._keys, salt=None)
        return self._made_head - PrefixIndex(unsalted)._made_head

    def _shared_head(self, opening: str) -> int:
        pair = PrefixIndex(self._keys)
        shared = [pair.add((Message(role="user", content=opening + word),), place) for place, word in enumerate((" a", " I"))][1]
        return (shared and shared.tokens) or 0

    def beginning(self, index: int, tokens: int) -> Prefix:
        """Of a prompt made to length that begins with so many tokens of request `index`, the template's among them, behind the salt."""
        if self._keys.token_ids:
            return Prefix(index, tokens + SALT_IDS * (self._keys.salt is not None))
        if tokens and not self.counter.exact:
            return Prefix(index)
        return Prefix(index, max(self._made_head, tokens + self._salt_tokens))

    def add(self, messages: tuple[Message, ...], index: int, tools: str = "") -> Prefix | None:
        """What was in an earlier prompt; None where nothing was."""
        prompt = self.counter.rendered(salted_messages(messages, self._keys.salt), tools)
        if (first := self._wholes.get(prompt)) is not None:
            return Prefix(first, whole=True)
        place = bisect_left(self._prompts, (prompt,))
        shared = [(_shared_characters(prompt, other), -first) for other, first in self._prompts[max(place - 1, 0) : place + 1]]
        if self._characters < MOST_CHARACTERS:
            self._characters += len(prompt)
            self._wholes[prompt] = index
            insort(self._prompts, (prompt, index))
        end, negative = max(shared, default=(0, 0))
        if not end or (end < LEAST_CHARACTERS and not self.counter.exact):
            return None
        first = self._firsts.setdefault(hash(prompt[:end]), -negative)
        return Prefix(first, self._within(prompt, end) if self.counter.exact else None)

    def add_blocks(self, ids: Sequence[int], index: int, size: int, tokens: int, scope: str = "") -> Prefix | None:
        """The same of a prompt of so many tokens that is made of blocks of `size`: equal ids of one scope are equal text. What a chat
        template says behind the text takes the end of the last block."""
        known = _common_blocks(ids, self._last[1]) if scope == self._last[0] else 0
        keys, text = self._last[2][:known], tokens - self._tail
        while keys and keys[-1] in self._cut:
            keys.pop()
        key = keys[-1] if keys else hash(scope)
        shared, holder = (min(len(keys) * size, text), self._blocks[key]) if keys else (0, 0)
        for place, block in enumerate(ids[len(keys) :], start=len(keys) + 1):
            key = hash((key, block))
            keys.append(key)
            first, covered = self._blocks.setdefault(key, index), min(place * size, text)
            before = self._cut.get(key, place * size)
            if first != index and shared == (place - 1) * size:
                shared, holder = min(covered, before), first
            if covered < place * size and (first == index or before < covered):
                self._cut[key] = covered
            elif covered == place * size:
                self._cut.pop(key, None)
        self._last = scope, ids, keys
        return self.beginning(holder, shared) if index else None

    def _within(self, prompt: str, end: int) -> int:
        """Tokens of the prompt that end by there. What is before its last word is counted once for all that share it."""
        word = prompt.rfind(" ", 0, end)
        safe = word if word > 0 and prompt[word - 1].isalnum() and prompt[word + 1 : word + 2].isalnum() else 0
        return (self._tokens(prompt[:safe]) if safe else 0) + self.counter.within(prompt[safe : end + LEAST_CHARACTERS], end - safe)


def _common_blocks(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with: of a session's prompts most."""
    end, most = 0, min(len(one), len(other))
    while end < most:
        middle = (end + most + 1) // 2
        end, most = (middle, most) if one[end:middle] == other[end:middle] else (end, middle - 1)
    return end


def _shared_characters(one: str, other: str) -> int:
    """How many characters both begin with; a word that goes on in one of them is not among them."""
    end, most = 0, min(len(one), len(other))
    while end < most:
        middle = (end + most + 1) // 2
        if one[end:middle] == other[end:middle]:
            end = middle
        else:
            most = middle - 1
    if one[end : end + 1].isalnum() or other[end : end + 1].isalnum():
        while end and one[end - 1].isalnum():
            end -= 1
    return end
