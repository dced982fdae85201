"""Prompts as token ids: exactly as long as asked for, with no tokenizer.

Ids are drawn by SHAKE-128 of seed and name from 2^14 that nearly every vocabulary has for words: special tokens and single
bytes lie below them, or at the vocabulary's end. A block of a trace's `hash_ids` depends on seed and id alone, as its text does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import shake_128

from bytemlperf_llm.plan.scenario import Prompts
from bytemlperf_llm.workload.synthesis import TextMaker, maker_for
from bytemlperf_llm.workload.token_counter import counter_for

FIRST_ID, ID_COUNT = 1_024, 1 << 14
CACHED_BLOCKS = 8_192


class TokenIds:
    """What `synthesis.TextMaker` is for text. Ids wrap around at the end of a vocabulary that is too small for them."""

    minimum = 1

    def __init__(self, seed: int, block_tokens: int, vocabulary: int | None) -> None:
        self._seed, self._block_tokens = seed, block_tokens
        self._end = min(vocabulary or FIRST_ID + ID_COUNT, FIRST_ID + ID_COUNT)
        self._block = lru_cache(maxsize=CACHED_BLOCKS)(self._drawn)
        self.lengths = f"exact: token ids below {self._end:,}, drawn without a tokenizer"

    def prompt(self, name: str, tokens: int, hash_ids: Sequence[object] = ()) -> tuple[int, ...]:
        """`hash_ids` name the blocks that the prompt starts with; what they don't cover is `name`'s own."""
        blocks = hash_ids[: -(-tokens // self._block_tokens)]
        drawn = b"".join([self._block(f"block/{block}", self._block_tokens) for block in blocks])
        drawn += self._drawn(name, max(0, tokens - len(drawn) // 2))
        return tuple([(FIRST_ID + value % ID_COUNT) % self._end for value in struct.unpack_from(f"<{tokens}H", drawn)])

    def _drawn(self, name: str, tokens: int) -> bytes:
        """Two bytes an id."""
        return shake_128(f"{self._seed}/ids/{name}".encode()).digest(2 * tokens)


def maker_of(prompts: Prompts, seed: int, block_tokens: int) -> TextMaker | TokenIds:
    """What makes prompts up, as text or as token ids. Raises UserError."""
    if prompts.token_ids:
        return TokenIds(seed, block_tokens, counter_for(prompts.tokenizer, prompts.template).vocabulary)
    return maker_for(prompts.tokenizer, prompts.template, seed, block_tokens)
