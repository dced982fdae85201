"""Text of an exact number of tokens, and blocks of text that prompts share.

A prompt is a frame (the chat template around one opening word) and words behind it, each with a
space before it. Tokenizers split text at words before they merge anything, so the tokens of such a
prompt are the sum of its words' tokens, which are measured once. A text of n tokens is then words
drawn from SHAKE-128 of seed and name, until n is reached; the last few may need a filler, such as a
full stop. That the sum holds is tried on whole prompts when a tokenizer is met (`additive`); where it doesn't,
every prompt is counted and mended at its end until it is exact.

Hash ids: block j of a prompt is its tokens j*B to (j+1)*B. The text of a block depends on seed and id
alone, so prompts with equal ids share exactly those tokens, in every run and on every machine. The
first block also holds what the template puts before the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import shake_128
from pathlib import Path

from bytemlperf_llm.workload.token_counter import TokenCounter, counter_for
from engines.contract import Message

WORDS = tuple(Path(__file__).with_name("words.txt").read_text(encoding="ascii").split())
"""Of synthetic prompts: short and common, so that most are one token in most vocabularies."""

OPENING = "The"
TABLE_WORDS = 256
"""A byte of SHAKE-128 chooses a word: eight bits of difference per word."""

MIN_SINGLE_WORDS = 64
"""So many words of one token make texts varied enough; with fewer, words of any length are used."""

FILLERS = (".", " a", " I", ",", " be", " to", " the", " 1", "!", "?")
CACHED_BLOCK_TOKENS = 2_000_000
CACHED_BLOCKS = 8_192
"""Kept of the text of blocks that come again: at most so many tokens (12 MB) and so many blocks."""

TRIAL_TOKENS = (1, 2, 3, 17, 255, 512, 1000)
MAX_MENDS = 8


class TextMaker:
    """Prompts of one tokenizer and seed. `minimum` is the shortest prompt, in tokens: template and
    opening word. `additive` is whether lengths hold without counting each prompt."""

    def __init__(self, counter: TokenCounter, seed: int, block_tokens: int = 512) -> None:
        self._counter, self._seed, self.block_tokens = counter, seed, block_tokens
        self.minimum = counter.prompt(_user(OPENING))
        self._head = counter.head(OPENING)
        self._words, self._costs = _word_table(counter)
        self._single = set(self._costs) == {1}
        self._fillers = _filler_table(counter, max(self._costs))
        self._block = lru_cache(maxsize=max(16, min(CACHED_BLOCKS, CACHED_BLOCK_TOKENS // block_tokens)))(self._text)
        self.additive = True
        self.additive = all(
            counter.prompt(_user(self.prompt(f"trial/{tokens}", self.minimum + tokens, (7, 8)))) == self.minimum + tokens
            for tokens in TRIAL_TOKENS
        )

    @property
    def lengths(self) -> str:
        """Whether prompt lengths are exact or estimated, and by which rule."""
        how = self._counter.how + ("" if self.additive else "; every prompt counted, and adjusted at its end")
        return f"{'exact' if self._counter.exact else 'estimated'}: {how}"

    def prompt(self, name: str, tokens: int, hash_ids: Sequence[object] = ()) -> str:
        """A user message that makes the whole prompt exactly `tokens` long, at least `minimum`.

        `hash_ids` name the blocks it starts with; what they don't cover is `name`'s own.
        """
        text = self._composed(name, tokens, hash_ids)
        return text if self.additive else self._mended(text, name, tokens, hash_ids)

    def _composed(self, name: str, tokens: int, hash_ids: Sequence[object]) -> str:
        left = max(0, tokens - self.minimum)
        parts, taken = [OPENING], self._head
        for place, block in enumerate(hash_ids):
            size = min((place + 1) * self.block_tokens - taken, left)
            if size <= 0:
                if left == 0:
                    break
                continue  # the template fills this block
            parts.append(self._block(f"block/{block}", size) if size < left else self._text(f"block/{block}", size))
            taken += size
            left -= size
        if left:
            parts.append(self._text(name, left))
        return "".join(parts)

    def _mended(self, text: str, name: str, tokens: int, hash_ids: Sequence[object]) -> str:
        """Asks for a little more or less until the count is right, or no nearer."""
        asked = tokens
        for _ in range(MAX_MENDS):
            off = tokens - self._counter.prompt(_user(text))
            if off == 0 or asked + off < self.minimum:
                break
            asked += off
            text = self._composed(name, asked, hash_ids)
        return text

    def _text(self, name: str, tokens: int) -> str:
        """Exactly `tokens` tokens that follow a word; a shorter one of the same name starts alike."""
        source = shake_128(f"{self._seed}/{name}".encode())
        if self._single:
            return "".join(map(self._words.__getitem__, source.digest(tokens)))
        parts, left = [], tokens
        for byte in source.digest(tokens // min(self._costs) + 1):
            if self._costs[byte] > left:
                break
            parts.append(self._words[byte])
            left -= self._costs[byte]
        while left:
            size = min(left, max(self._fillers))
            if size not in self._fillers:
                break  # no filler is that short: counted as inexact by `additive`
            parts.append(self._fillers[size])
            left -= size
        return "".join(parts)


@lru_cache(maxsize=8)
def maker_for(tokenizer: str | None, template: str, seed: int, block_tokens: int) -> TextMaker:
    """The maker of a scenario's tokenizer and template; kept, since making one takes a moment. Raises UserError."""
    return TextMaker(counter_for(tokenizer, template), seed, block_tokens)


def _user(content: str) -> tuple[Message, ...]:
    return (Message(role="user", content=content),)


def _cost(counter: TokenCounter, piece: str) -> int:
    """Tokens that `piece` adds behind a word."""
    return counter.text(OPENING + " and" + piece) - counter.text(OPENING + " and")


def _word_table(counter: TokenCounter) -> tuple[list[str], list[int]]:
    """256 words with the space before them, and the tokens of each: those of one token where there are enough."""
    costs = {f" {word}": _cost(counter, f" {word}") for word in WORDS}
    singles = [word for word, cost in costs.items() if cost == 1]
    pool = singles if len(singles) >= MIN_SINGLE_WORDS else [word for word, cost in costs.items() if cost > 0]
    words = [pool[i % len(pool)] for i in range(TABLE_WORDS)]
    return words, [costs[word] for word in words]


def _filler_table(counter: TokenCounter, most_tokens: int) -> dict[int, str]:
    """For every number of tokens up to `most_tokens`, where there is one: a piece of that many."""
    pieces: dict[int, str] = {}
    for piece in (*FILLERS, *(f" {word}" for word in WORDS)):
        pieces.setdefault(_cost(counter, piece), piece)
    for tokens in range(1, most_tokens + 1):
        if tokens not in pieces:
            parts = next(((a, tokens - a) for a in range(tokens - 1, 0, -1) if a in pieces and tokens - a in pieces), None)
            if parts is not None:
                pieces[tokens] = pieces[parts[0]] + pieces[parts[1]]
    return {tokens: piece for tokens, piece in pieces.items() if 0 < tokens <= most_tokens}
