"""Some of a run's responses, kept so that their tokens can be counted again when the run is over.

It costs a call and a subtraction a response: the next one to keep is known in advance (Li, Reservoir-sampling
algorithms of time complexity O(n(1 + log(N/n))), ACM TOMS 20, 1994, algorithm L), and at the end each
response has had the same chance. Texts stay in memory; what leaves is their SHA-256, by which
records know their response, and a count.
"""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path

from bytemlperf.errors import UserError
from bytemlperf_llm.metrics.recount import Counted
from bytemlperf_llm.workload.token_counter import WORDS_RULE, counter_for

SAMPLE_ANSWERS = 256
MAX_TEXT_CHARS = 200_000  # a longer answer isn't kept: the sample's memory stays bounded


class AnswerSample:
    """Takes the text of each response that has ended."""

    def __init__(self, size: int = SAMPLE_ANSWERS, seed: int = 0) -> None:
        self._size = size
        self._draw = random.Random(seed)
        self._weight = 1.0
        self._texts: list[str] = []
        self._skip = 0  # so many responses pass before the next one is kept

    def add(self, text: str) -> None:
        """Keep it, or let it pass."""
        if self._skip:
            self._skip -= 1
        elif text and len(text) <= MAX_TEXT_CHARS:
            self._keep(text)

    def _keep(self, text: str) -> None:
        if len(self._texts) < self._size:
            self._texts.append(text)
            if len(self._texts) < self._size:
                return
        else:
            self._texts[self._draw.randrange(self._size)] = text
        self._weight *= math.exp(math.log(1.0 - self._draw.random()) / self._size)
        self._skip = int(math.log(1.0 - self._draw.random()) / math.log1p(-self._weight))

    def counted(self, tokenizer: str) -> Counted:
        """Count the tokens of what was kept. `tokenizer` is a folder with tokenizer.json, or `words`."""
        name = "one token per word" if tokenizer == WORDS_RULE else f"tokenizer of {'/'.join(Path(tokenizer).parts[-2:])}"
        try:
            counter = counter_for(tokenizer, "plain")
        except UserError as error:
            return Counted(tokenizer=name, tokens={}, problem=error.cause)
        encoded = {text: text.encode("utf-8", "surrogatepass") for text in self._texts}  # as `stamped.make_record` has it
        return Counted(tokenizer=name, tokens={hashlib.sha256(raw).hexdigest(): counter.text(text) for text, raw in encoded.items()})
