"""The record of one request: the same in memory, in records.jsonl and in Parquet.

All times are integer nanoseconds of CLOCK_MONOTONIC, counted from the run's origin (run.json's
`clock_origin_ns`). None means that it never happened.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from operator import sub
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from bytemlperf_llm.record.spans import completed, from_spans
from engines.contract import ErrorClass, Ns, ServerFacts, Stages

Outcome = Literal["ok", "failed", "cancelled", "dropped", "in_flight"]
"""Every scheduled request ends in exactly one: answered; failed (see error_class); cancelled by
the user's stop; never sent; still running at the drain timeout."""

TokenSource = Literal["usage", "chunks"]
"""Where `output_tokens` comes from: what the engine reported, or the chunks counted, since it reported nothing or what can't be."""

Tokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Gap = Annotated[int, msgspec.Meta(ge=-(1 << 52), le=1 << 52)]  # 52 days
SAFE_GAPS = 1 << 10
"""So many have a sum that is an Ns, whatever they are."""


class RequestRecord(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """One request of the measured schedule."""

    id: str
    index: int
    class_name: str | None = None  # of a mix; None where the scenario has no classes
    endpoint: str | None = None  # where it went, of several addresses
    session: str | None = None
    turn: int = 0
    session_turns: int = 0  # turns of its session; 0: a request on its own
    parents: list[int] = []  # turns that it waited for
    reusable_tokens: Tokens | None = None  # of its prompt in earlier prompts of the schedule: what an unbounded prefix cache would hold
    prefix_index: int | None = None  # the request that had them first, as far as is known
    planned_ns: Ns | None  # None in closed loop, where a request is due when a slot is free
    sent_ns: Ns | None = None
    first_byte_ns: Ns | None = None
    chunk_ns: list[Ns] = []
    chunk_gaps_ns: list[Gap] = []  # `chunk_ns` as a log has it: the first chunk's time, then the time since the one before
    tokens_per_chunk: list[Tokens] = []
    end_ns: Ns
    outcome: Outcome
    error_class: ErrorClass | None = None
    error_detail: str = ""
    prompt_tokens: Tokens | None = None
    output_tokens: Tokens = 0
    usage_tokens: Tokens | None = None  # output as reported, hidden tokens left out; None: not reported
    shown_tokens: Tokens | None = None  # what the stream shows by itself, before tokens are spread by usage
    reasoning_tokens: Tokens | None = None
    hidden_tokens: Tokens = 0  # reasoning that was reported and not streamed: in no count of output
    reasoning_ns: Ns | None = None  # first token of reasoning, where the stream tells it apart
    answer_ns: Ns | None = None  # first token of the answer after it
    streamed_reasoning_tokens: Tokens | None = None
    cached_tokens: Tokens | None = None
    accepted_draft_tokens: Tokens | None = None
    max_tokens: int = 0
    images: Tokens = 0
    image_bytes: Tokens = 0  # of their files, before base64; of one that the server fetches none
    inputs: Tokens = 0  # vectors or scores that were asked for; 0: tokens were
    token_source: TokenSource = "chunks"  # noqa: S105
    finish_reason: str | None = None
    worker: int = 0
    stages: Stages | None = None
    server: ServerFacts | None = None
    output_sha256: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where the gaps lead to a time that is no Ns."""
        if self.chunk_gaps_ns:
            stamps = list(accumulate(self.chunk_gaps_ns))
            if len(stamps) > SAFE_GAPS and max(-min(stamps), max(stamps)) >= 1 << 62:
                raise ValueError("chunk_gaps_ns: too long")
            self.chunk_ns, self.chunk_gaps_ns = stamps, []

    def log(self, append: Callable[[RequestRecord], None]) -> None:
        """Give it to `append` as a log has it. Raises what that raises."""
        stamps = self.chunk_ns
        self.chunk_gaps_ns, self.chunk_ns = list(map(sub, stamps, (0, *stamps))), []
        try:
            append(self)
        finally:
            self.chunk_ns, self.chunk_gaps_ns = stamps, []

    @staticmethod
    def beside(folder: Path) -> Callable[[RequestRecord], None] | None:
        """What completes a record with what the server's spans say of it; None where a run has none."""
        spans = from_spans(folder)
        if spans is None:
            return None

        def complete(record: RequestRecord) -> None:
            if (line := spans(record.id)) is not None:
                record.server, record.stages = completed(record.server, line), line.stages or record.stages

        return complete


def usage_tokens_of(record: RequestRecord) -> int | None:
    """What usage reports of the streamed tokens; None where it reports nothing. Records without the field are of older runs."""
    if record.usage_tokens is None and record.token_source == "usage":  # noqa: S105
        return record.output_tokens
    return record.usage_tokens
