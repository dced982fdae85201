"""What every engine inside this process must do, whatever runs underneath. A test module of an
engine subclasses `InProcessSuite` and brings a module-scoped fixture `engine`, started once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bytemlperf_llm.loadgen.recorder import RequestRecorder, monotonic_ns
from engines.contract import BadOption, Decoded, EngineError, EngineUnavailable, Finish, Message, Request, Sampling

LONG_TOKENS = 400
"""Far more than is generated before the tests that cancel have cancelled."""


class Answer:
    """One request's life, as the load generator would see it."""

    def __init__(self, recorder: RequestRecorder, finish: Finish, decoded: Decoded) -> None:
        self.recorder, self.finish, self.decoded = recorder, finish, decoded

    @property
    def tokens(self) -> int:
        return sum(self.decoded.tokens_per_chunk)


class Watched(RequestRecorder):
    """Tells when the first chunk has come."""

    def __init__(self) -> None:
        super().__init__()
        self.first = asyncio.Event()

    def chunk(self, payload: Any) -> None:
        super().chunk(payload)
        self.first.set()


def chat(index: int, max_tokens: int, content: str = "", sampling: Sampling | None = None) -> Request:
    message = Message(role="user", content=content or f"Tell me about the number {index}.")
    return Request(index=index, id=f"q{index}", max_tokens=max_tokens, messages=(message,), sampling=sampling or Sampling())


async def settled(holds: Callable[[], bool], within_s: float = 10) -> None:
    """Wait for what an engine's own thread does a moment after the answer."""
    until = monotonic_ns() + int(within_s * 1e9)
    while not holds():
        assert monotonic_ns() < until, f"not so within {within_s} s"
        await asyncio.sleep(0.02)


async def ask(engine: Any, request: Request) -> Answer:
    recorder = RequestRecorder(planned_ns=monotonic_ns())
    finish = await engine.generate(request, recorder)
    return Answer(recorder, finish, engine.decode(recorder.payloads))


def check_stages(answer: Answer) -> None:
    """The engine's stamps are of our clock and lie between ours, in order."""
    stages, recorder = answer.finish.stages, answer.recorder
    assert stages is not None
    inner = [stages.queued_ns, stages.scheduled_ns, stages.first_token_ns, stages.last_token_ns]
    assert all(isinstance(stamp, int) for stamp in inner)
    stamps = [recorder.planned_ns, recorder.sent_ns, *inner, recorder.chunk_ns[-1]]
    assert stamps == sorted(stamps)
    assert stages.first_token_ns <= recorder.chunk_ns[0]


async def check_unknown_option(engine: Any, model: Any, wrong: str, near: str) -> None:
    with pytest.raises(BadOption) as caught:
        await engine.start(model, {wrong: "1"})
    assert wrong in caught.value.cause
    assert near in caught.value.fix
    await engine.close()


async def check_no_model(engine: Any) -> None:
    with pytest.raises(EngineUnavailable, match="--model smollm2"):
        await engine.start(None, {})
    await engine.close()


class InProcessSuite:
    async def test_answers_with_exactly_the_tokens_asked_for(self, engine: Any) -> None:
        answer = await ask(engine, chat(1, 24))
        assert answer.tokens == 24
        assert answer.finish.reason == "length"
        assert answer.finish.usage.output_tokens == 24
        assert answer.finish.usage.prompt_tokens > 5
        assert answer.decoded.error_class is None
        assert answer.recorder.chunk_ns == sorted(answer.recorder.chunk_ns)
        assert answer.recorder.planned_ns <= answer.recorder.sent_ns <= answer.recorder.chunk_ns[0]

    async def test_token_ids_are_the_prompt_as_they_stand(self, engine: Any) -> None:
        ids = tuple(40 + place % 60 for place in range(37))
        answer = await ask(engine, Request(index=1, id="ids", max_tokens=5, token_ids=ids))
        assert (answer.finish.usage.prompt_tokens, answer.tokens) == (37, 5)

    async def test_streams_rather_than_answering_at_the_end(self, engine: Any) -> None:
        answer = await ask(engine, chat(2, 24))
        assert len(answer.decoded.tokens_per_chunk) > 12
        assert max(answer.decoded.tokens_per_chunk) < 12

    async def test_four_at_once_are_interleaved(self, engine: Any) -> None:
        answers = await asyncio.gather(*(ask(engine, chat(index, 32)) for index in range(4)))
        assert [answer.tokens for answer in answers] == [32] * 4
        first_ends = min(answer.recorder.chunk_ns[-1] for answer in answers)
        assert all(answer.recorder.chunk_ns[0] < first_ends for answer in answers)

    async def test_greedy_answers_repeat(self, engine: Any) -> None:
        one, other = [await ask(engine, chat(3, 16)) for _ in range(2)]
        assert one.decoded.text == other.decoded.text
        assert one.decoded.text

    async def test_a_plain_prompt_needs_no_template(self, engine: Any) -> None:
        plain = await ask(engine, Request(index=0, id="p", max_tokens=4, prompt="Once upon a time"))
        chatted = await ask(engine, chat(0, 4, "Once upon a time"))
        assert plain.tokens == 4
        assert plain.finish.usage.prompt_tokens < chatted.finish.usage.prompt_tokens

    async def test_a_cancelled_request_leaves_the_engine(self, engine: Any) -> None:
        recorder = Watched()
        task = asyncio.create_task(engine.generate(chat(4, LONG_TOKENS), recorder))
        await recorder.first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen = len(recorder.chunk_ns)
        after = await ask(engine, chat(5, 16))
        assert after.tokens == 16
        assert seen == len(recorder.chunk_ns) < LONG_TOKENS
        if hasattr(engine, "stats"):
            await settled(lambda: engine.stats()["running"] == 0)

    async def test_a_prompt_longer_than_the_context_is_its_own_error(self, engine: Any) -> None:
        recorder = RequestRecorder()
        with pytest.raises(EngineError) as caught:
            await engine.generate(chat(6, 8, "word " * 12_000), recorder)
        assert caught.value.error_class == "context_length"
        assert recorder.sent_ns is not None
        assert recorder.chunk_ns == []

    async def test_prompt_and_answer_must_fit_together(self, engine: Any) -> None:
        with pytest.raises(EngineError) as caught:
            await ask(engine, chat(7, 1_000_000))
        assert caught.value.error_class == "context_length"
