"""Tokens counted three ways: as the server reports them, as its tokenizer splits the answer, and as chunks.

`Counted` is what a run keeps of its recount (recount.json): SHA-256 of an answer to its tokens. A record
knows its answer by the same sum, so what is compared here are records, and the texts need not be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import msgspec

from bytemlperf.report.text import counted
from bytemlperf.runs.files import RECOUNT, UNREADABLE, json_of, why
from bytemlperf_llm.record.record import RequestRecord, usage_tokens_of

FORMAT_VERSION = 1
WARN_DISAGREEMENT = 0.005
"""Half a per cent: a token in two hundred."""
MOST_TEXTLESS = 0.05
"""Tokens without text over those with: more of them are another tokenizer's."""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """Content of recount.json. `problem` says why nothing was counted."""

    format_version: int = FORMAT_VERSION
    tokenizer: str
    tokens: dict[str, int]
    problem: str = ""


class Recount(msgspec.Struct, kw_only=True):
    """Over the answers whose text was recounted, `answers` of them.

    `usage_tokens` and the recount beside it, `usage_recounted`, are over those that report usage. `chunks` carried
    at least one token. Disagreements are Σ|count − recount| / Σrecount, answer by answer, None without
    any. An answer that ended by itself (`stop`) may count one token more than its text has: the one that
    ended it. `usage_chunk_disagreement` is that of usage and chunks.
    """

    tokenizer: str
    answers: int = 0
    recounted_tokens: int = 0
    usage_tokens: int = 0
    usage_recounted: int = 0
    chunks: int = 0
    usage_disagreement: float | None = None
    chunk_disagreement: float | None = None
    usage_chunk_disagreement: float | None = None

    @property
    def textless(self) -> bool:
        """Whether what the server counts beyond the text are tokens that have none, such as an end token in mid-response: it streamed a
        chunk for each token of its usage."""
        streamed = self.usage_chunk_disagreement is not None and self.usage_chunk_disagreement <= WARN_DISAGREEMENT
        return streamed and self.usage_recounted < self.usage_tokens <= (1 + MOST_TEXTLESS) * self.usage_recounted


class RecountTally:
    """Adds up records whose answer was recounted; the order changes nothing."""

    def __init__(self, counted: Counted) -> None:
        self._tokens, self._found = counted.tokens, Recount(tokenizer=counted.tokenizer)
        self._usage_apart = self._chunks_apart = self._streamed_apart = 0

    def add(self, record: RequestRecord) -> None:
        """Take in one record; one that failed, or whose answer isn't known, changes nothing."""
        text_tokens = self._tokens.get(record.output_sha256 or "")
        if text_tokens is None or record.outcome != "ok":
            return
        most = text_tokens + (record.finish_reason == "stop")
        chunks = sum(count > 0 for count in record.tokens_per_chunk)
        self._found.answers += 1
        self._found.recounted_tokens += text_tokens
        self._found.chunks += chunks
        self._chunks_apart += _outside(chunks, text_tokens, most)
        usage = usage_tokens_of(record)
        if usage is not None:
            self._found.usage_tokens += usage
            self._found.usage_recounted += text_tokens
            self._streamed_apart += abs(usage - chunks)
            self._usage_apart += _outside(usage, text_tokens, most)

    def result(self) -> Recount | None:
        """None without a single answer."""
        self._found.usage_disagreement = _share(self._usage_apart, self._found.usage_recounted)
        self._found.chunk_disagreement = _share(self._chunks_apart, self._found.recounted_tokens)
        self._found.usage_chunk_disagreement = _share(self._streamed_apart, self._found.usage_tokens)
        return self._found if self._found.answers else None


def _outside(count: int, least: int, most: int) -> int:
    return max(0, least - count, count - most)


def _share(apart: int, whole: int) -> float | None:
    return float(Fraction(apart, whole)) if whole else None


def merged(parts: Sequence[Counted]) -> Counted | None:
    """One for the whole run, of what its workers and its resumed parts have counted; what was counted by another
    tokenizer than the last is left out. None without any."""
    if not parts:
        return None
    alike = [part for part in parts if part.tokenizer == parts[-1].tokenizer]
    tokens = {text: count for part in alike for text, count in part.tokens.items()}
    problem = "" if tokens else next((part.problem for part in alike if part.problem), "")
    return Counted(tokenizer=parts[-1].tokenizer, tokens=dict(sorted(tokens.items())), problem=problem)


def warnings(recount: Recount | None, answers_by_chunks: int) -> list[str]:
    """What a reader must know; empty where the counts agree."""
    if recount is None:
        return []
    found = []
    of_answers = f"a recount of {counted(recount.answers, 'response')} ({recount.tokenizer})"
    if recount.usage_disagreement is not None and recount.usage_disagreement > WARN_DISAGREEMENT and not recount.textless:
        found.append(
            f"the server's usage and {of_answers} differ by {recount.usage_disagreement:.2%}: {recount.usage_tokens:,} against "
            f"{recount.usage_recounted:,} tokens. "
            "TPOT, ITL and tokens/s are by usage; is it this model's tokenizer?"
        )
    if answers_by_chunks and recount.chunk_disagreement is not None and recount.chunk_disagreement > WARN_DISAGREEMENT:
        found.append(
            f"chunks are counted as tokens, and {of_answers} finds {recount.recounted_tokens:,} tokens in {recount.chunks:,} chunks, "
            f"{recount.chunk_disagreement:.2%} apart: TPOT, ITL and tokens/s are off by as much"
        )
    return found


def read_recount(folder: Path) -> tuple[Counted | None, str]:
    """What recount.json holds (None: there is none), and a sentence where it can't be used."""
    try:
        counted = json_of(folder / RECOUNT, Counted)
    except FileNotFoundError:
        return None, ""
    except UNREADABLE as error:
        return None, f"{RECOUNT} can't be used: {why(error)}"
    return counted, f"responses were not recounted: {counted.problem}" if counted.problem else ""
