"""The reference engine: no model, a stated TTFT and ITL, the same answer every time.

For trying the tool out, for teaching, for tests, and for calibrating: what it does is known in
advance, so whatever a benchmark reports besides is the benchmark's own error. Every answer has
exactly `max_tokens` tokens, drawn from a fixed list of words. With `slots` requests queue, so that
queueing can be watched; with `fail_every` some fail.

The same behaviour behind an OpenAI-compatible HTTP server: `engines.reference.server`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from engines.contract import (
    Decoded,
    EngineError,
    EngineInfo,
    Finish,
    Model,
    Recorder,
    Request,
    Stages,
    Usage,
    WeightsKind,
    parse_options,
)
from engines.reference.schedule import NS_PER_MS, Job, Pace, Schedule

VERSION = "1"
Delay = Annotated[float, msgspec.Meta(ge=0, le=3_600_000)]
"""Milliseconds, an hour at most: longer is a slip of the unit."""

WORDS = (
    *(" that", " have", " with", " this", " from", " they", " will", " what"),
    *(" when", " make", " time", " just", " know", " take", " into", " year"),
)
"""The vocabulary: each is one token of five bytes, so every event of an answer has the same size."""


class ReferenceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in milliseconds. `jitter` is a fraction of each interval, seeded by the request id.
    `tokens_per_chunk` tokens leave together. Every `fail_every`-th request fails (0: none).
    At most `slots` requests run at once and the others queue (0: no limit)."""

    ttft_ms: Delay = 50.0
    itl_ms: Delay = 10.0
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    tokens_per_chunk: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    fail_every: Annotated[int, msgspec.Meta(ge=0)] = 0
    slots: Annotated[int, msgspec.Meta(ge=0)] = 0

    def pace(self) -> Pace:
        return Pace(ttft_ns=round(self.ttft_ms * NS_PER_MS), itl_ns=round(self.itl_ms * NS_PER_MS), jitter=self.jitter)


def words(first: int, count: int) -> str:
    """The text of `count` tokens, beginning with token number `first`."""
    return "".join(WORDS[i % len(WORDS)] for i in range(first, first + count))


def count_prompt_tokens(text: str) -> int:
    """The reference engine's tokenizer: one token a word."""
    return len(text.split())


class Chunk(msgspec.Struct, frozen=True):
    """The payload: `tokens` tokens that left together."""

    tokens: int
    text: str


class _Answer(Job):
    """One request in process: steps go to the recorder, the end resolves a future."""

    __slots__ = ("_now_ns", "_recorder", "_step_tokens", "_tokens", "done", "first_ns", "last_ns")

    def __init__(self, schedule: Schedule, offsets_ns: Sequence[int], tokens: int, step_tokens: int, recorder: Recorder) -> None:
        super().__init__(offsets_ns)
        self._now_ns = schedule.now_ns
        self._recorder = recorder
        self._tokens = tokens
        self._step_tokens = step_tokens
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, index: int, due_ns: int) -> None:  # noqa: ARG002 - the recorder says when it came
        first_token = index * self._step_tokens
        count = min(self._step_tokens, self._tokens - first_token)
        self.last_ns = self._now_ns()
        if index == 0:
            self.first_ns = self.last_ns
        self._recorder.chunk(Chunk(count, words(first_token, count)))

    def finished(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class ReferenceEngine:
    """See the module. Stage stamps come from the clock that its own schedule runs on."""

    weights: ClassVar[WeightsKind] = "none"
    options_type: ClassVar[type[msgspec.Struct]] = ReferenceOptions

    def __init__(self) -> None:
        self._options = ReferenceOptions()
        self._pace = self._options.pace()
        self._schedule: Schedule | None = None
        self._answers: set[_Answer] = set()
        self._received = 0
        self._failed = 0

    async def start(self, model: Model | None, options: Mapping[str, str]) -> EngineInfo:
        """Make ready; needs nothing of the machine. Raises BadOption."""
        self._options = parse_options(options, ReferenceOptions)
        self._pace = self._options.pace()
        self._schedule = Schedule(asyncio.get_running_loop(), self._options.slots)
        return EngineInfo(
            name="reference",
            versions={"reference": VERSION},
            device="none",
            dtype="none",
            model=model.name if model else "none",
            tokenizer="words",  # one token a word: see count_prompt_tokens
            reports=["usage", "stages", "stats"],
            accepts=["token_ids"],
            notes=[f"no model: stated TTFT {self._options.ttft_ms:g} ms, ITL {self._options.itl_ms:g} ms"],
        )

    async def generate(self, request: Request, recorder: Recorder) -> Finish:
        """Answer with exactly `max_tokens` words on schedule. Raises EngineError."""
        recorder.sent()
        schedule = self._schedule
        if schedule is None:
            raise EngineError("engine_failed", "the engine is closed")
        if request.max_tokens < 1:
            raise EngineError("engine_failed", "max_tokens is less than 1")
        self._received += 1
        if self._options.fail_every and self._received % self._options.fail_every == 0:
            self._failed += 1
            raise EngineError("engine_failed", f"fail_every={self._options.fail_every}")
        step_tokens = self._options.tokens_per_chunk
        offsets_ns = self._pace.offsets_ns(request.id, request.max_tokens, step_tokens)
        answer = _Answer(schedule, offsets_ns, request.max_tokens, step_tokens, recorder)
        self._answers.add(answer)
        try:
            schedule.submit(answer)
            await answer.done
        finally:
            self._answers.discard(answer)
            schedule.cancel(answer)
        return _finish(request, answer)

    def decode(self, payloads: Sequence[Any]) -> Decoded:
        """Chunks say themselves what they are."""
        if not all(isinstance(payload, Chunk) for payload in payloads):
            detail = "a payload is not the reference engine's"
            return Decoded(tokens_per_chunk=[0] * len(payloads), text="", error_class="malformed_stream", error_detail=detail)
        tokens = [payload.tokens for payload in payloads]
        return Decoded(tokens_per_chunk=tokens, text="".join(payload.text for payload in payloads), reason="length")

    def stats(self) -> dict[str, float]:
        """Requests by state: running, waiting for a slot, finished, failed."""
        if self._schedule is None:
            return {}
        schedule = self._schedule
        return {
            "running": float(schedule.running),
            "waiting": float(schedule.waiting),
            "finished": float(schedule.finished),
            "failed": float(self._failed),
        }

    async def close(self) -> None:
        """Stop; requests under way fail."""
        if self._schedule is not None:
            self._schedule.close()
            self._schedule = None
        for answer in self._answers:
            if not answer.done.done():
                answer.done.set_exception(EngineError("engine_failed", "the engine was closed"))


def _finish(request: Request, answer: _Answer) -> Finish:
    texts = (request.prompt or "",) if request.messages is None else [message.text() for message in request.messages]
    prompt_tokens = count_prompt_tokens(" ".join((request.tools, *texts))) if request.token_ids is None else len(request.token_ids)
    return Finish(
        reason="length",
        usage=Usage(prompt_tokens=prompt_tokens, output_tokens=request.max_tokens),
        stages=Stages(
            queued_ns=answer.queued_ns,
            scheduled_ns=answer.scheduled_ns,
            first_token_ns=answer.first_ns,
            last_token_ns=answer.last_ns,
        ),
    )
