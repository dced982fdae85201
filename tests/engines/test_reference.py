"""The reference engine: exact on a virtual clock, honest about its stages, strict about its options."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.contract import BadOption, EngineError, Finish, Message, Request
from engines.reference.engine import Chunk, ReferenceEngine, words
from engines.reference.schedule import FdTimer, LoopTimer, Pace, make_timer

MS = 1_000_000


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time moves only when nothing is ready, and then straight to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_s = 1_000.0

    def time(self) -> float:
        return self._virtual_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            while self._scheduled and self._scheduled[0]._cancelled:
                heapq.heappop(self._scheduled)._scheduled = False
            if self._scheduled:
                self._virtual_s = max(self._virtual_s, self._scheduled[0]._when)
        super()._run_once()


class Recording:
    """A recorder on the running loop's clock."""

    def __init__(self) -> None:
        self.sent_ns = 0
        self.chunk_ns: list[int] = []
        self.payloads: list[Any] = []

    def _now(self) -> int:
        return round(asyncio.get_running_loop().time() * 1e9)

    def sent(self) -> None:
        self.sent_ns = self._now()

    def chunk(self, payload: Any) -> None:
        self.chunk_ns.append(self._now())
        self.payloads.append(payload)

    def since_sent_ns(self) -> list[int]:
        return [ns - self.sent_ns for ns in self.chunk_ns]


def request(index: int = 0, tokens: int = 4) -> Request:
    return Request(index=index, id=f"r{index}", max_tokens=tokens, messages=(Message("user", "one two three"),))


def virtually(options: dict[str, str], scenario: Callable[[ReferenceEngine], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        engine = ReferenceEngine()
        await engine.start(None, options)
        try:
            return await scenario(engine)
        finally:
            await engine.close()

    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


async def ask(engine: ReferenceEngine, asked: Request) -> tuple[Recording, Finish]:
    recording = Recording()
    return recording, await engine.generate(asked, recording)


def test_tokens_come_on_the_absolute_schedule() -> None:
    recording, finish = virtually({"ttft_ms": "50", "itl_ms": "10"}, lambda engine: ask(engine, request(tokens=5)))
    assert recording.since_sent_ns() == [50 * MS, 60 * MS, 70 * MS, 80 * MS, 90 * MS]
    assert finish.reason == "length"
    assert (finish.usage.prompt_tokens, finish.usage.output_tokens) == (3, 5)
    stages = finish.stages
    assert stages.queued_ns == stages.scheduled_ns == recording.sent_ns
    assert (stages.first_token_ns, stages.last_token_ns) == (recording.chunk_ns[0], recording.chunk_ns[-1])


def test_many_at_once_do_not_disturb_each_other() -> None:
    async def scenario(engine: ReferenceEngine) -> list[tuple[Recording, Finish]]:
        return await asyncio.gather(*(ask(engine, request(i, tokens=1 + i % 7)) for i in range(200)))

    answers = virtually({"ttft_ms": "3.5", "itl_ms": "0.25"}, scenario)
    for i, (recording, _) in enumerate(answers):
        assert recording.since_sent_ns() == [3_500_000 + k * 250_000 for k in range(1 + i % 7)]


def test_chunks_of_several_tokens_leave_with_their_first_token() -> None:
    recording, finish = virtually({"ttft_ms": "20", "itl_ms": "10", "tokens_per_chunk": "3"}, lambda engine: ask(engine, request(tokens=7)))
    assert recording.since_sent_ns() == [20 * MS, 50 * MS, 80 * MS]
    decoded = ReferenceEngine().decode(recording.payloads)
    assert decoded.tokens_per_chunk == [3, 3, 1]
    assert decoded.text == words(0, 7)
    assert finish.usage.output_tokens == 7


def test_slots_make_a_queue_in_order_of_arrival() -> None:
    async def scenario(engine: ReferenceEngine) -> Any:
        tasks = [asyncio.ensure_future(ask(engine, request(i, tokens=3))) for i in range(5)]
        await asyncio.sleep(0.001)
        return engine.stats(), await asyncio.gather(*tasks)

    stats, answers = virtually({"ttft_ms": "10", "itl_ms": "5", "slots": "2"}, scenario)
    assert (stats["running"], stats["waiting"]) == (2, 3)
    assert [recording.since_sent_ns()[0] for recording, _ in answers] == [10 * MS, 10 * MS, 30 * MS, 30 * MS, 50 * MS]
    assert [finish.stages.scheduled_ns - finish.stages.queued_ns for _, finish in answers] == [0, 0, 20 * MS, 20 * MS, 40 * MS]


def test_a_thousand_queued_instant_answers_do_not_recurse() -> None:
    async def scenario(engine: ReferenceEngine) -> Any:
        return await asyncio.gather(*(ask(engine, request(i, tokens=2)) for i in range(3_000)))

    answers = virtually({"ttft_ms": "0", "itl_ms": "0", "slots": "1"}, scenario)
    assert all(recording.since_sent_ns() == [0, 0] for recording, _ in answers)


def test_a_cancelled_request_frees_its_slot_or_its_place() -> None:
    async def scenario(engine: ReferenceEngine) -> Any:
        running, waiting, last = (asyncio.ensure_future(ask(engine, request(i))) for i in range(3))
        await asyncio.sleep(0.005)
        waiting.cancel()
        running.cancel()
        return await last, engine.stats()

    (recording, _), stats = virtually({"ttft_ms": "10", "itl_ms": "1", "slots": "1"}, scenario)
    assert recording.since_sent_ns()[0] == 15 * MS
    assert (stats["running"], stats["waiting"], stats["finished"]) == (0, 0, 1)


def test_every_nth_request_fails() -> None:
    async def scenario(engine: ReferenceEngine) -> Any:
        return await asyncio.gather(*(ask(engine, request(i)) for i in range(7)), return_exceptions=True)

    answers = virtually({"fail_every": "3"}, scenario)
    failed = [i for i, answer in enumerate(answers) if isinstance(answer, EngineError)]
    assert failed == [2, 5]
    assert answers[2].error_class == "engine_failed"


def test_closing_fails_what_is_under_way_and_what_comes_later() -> None:
    async def scenario(engine: ReferenceEngine) -> Any:
        tasks = [asyncio.ensure_future(ask(engine, request(i))) for i in range(2)]
        await asyncio.sleep(0.001)
        await engine.close()
        late = await asyncio.gather(ask(engine, request(9)), return_exceptions=True)
        return await asyncio.gather(*tasks, return_exceptions=True) + late

    assert [error.error_class for error in virtually({"slots": "1"}, scenario)] == ["engine_failed"] * 3


def test_jitter_is_the_same_for_the_same_request_and_within_its_bounds() -> None:
    pace = Pace(ttft_ns=50 * MS, itl_ns=10 * MS, jitter=0.2)
    offsets = list(pace.offsets_ns("r1", 1000, 1))
    assert offsets[:4] == [56_148_619, 65_237_386, 75_544_622, 84_716_727]  # on every machine
    assert offsets == list(pace.offsets_ns("r1", 1000, 1))
    assert offsets != list(pace.offsets_ns("r2", 1000, 1))
    gaps = [b - a for a, b in zip([0, *offsets], offsets, strict=False)]
    assert 40 * MS <= gaps[0] <= 60 * MS
    assert all(8 * MS <= gap <= 12 * MS for gap in gaps[1:])
    assert len(set(gaps)) > 900


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**8), st.floats(0, 1), st.integers(1, 300), st.integers(1, 7))
def test_steps_cover_all_tokens_and_never_go_back(ttft_ns: int, itl_ns: int, jitter: float, tokens: int, k: int) -> None:
    offsets = list(Pace(ttft_ns=ttft_ns, itl_ns=itl_ns, jitter=jitter).offsets_ns("id", tokens, k))
    assert len(offsets) == -(-tokens // k)
    assert offsets == sorted(offsets)
    assert offsets[0] >= 0
    if jitter == 0:
        assert offsets == [ttft_ns + i * k * itl_ns for i in range(len(offsets))]


@pytest.mark.parametrize(
    ("options", "words_in_message"),
    [
        ({"ttft_ms": "-1"}, "ttft_ms='-1'"),
        ({"itl_ms": "nan"}, "itl_ms='nan'"),
        ({"itl_ms": "inf"}, "itl_ms='inf'"),
        ({"jitter": "1.5"}, "<= 1.0"),
        ({"tokens_per_chunk": "0"}, "tokens_per_chunk='0'"),
        ({"fail_every": "-2"}, ">= 0"),
        ({"slots": "-1"}, "slots='-1'"),
        ({"slots": "two"}, "slots='two'"),
        ({"ttft": "5"}, "did you mean 'ttft_ms'"),
    ],
)
async def test_bad_options_are_one_clear_line(options: dict[str, str], words_in_message: str) -> None:
    with pytest.raises(BadOption) as caught:
        await ReferenceEngine().start(None, options)
    assert words_in_message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_payloads_are_malformed_not_fatal() -> None:
    decoded = ReferenceEngine().decode([Chunk(1, "a"), b"junk", None])
    assert decoded.error_class == "malformed_stream"
    assert decoded.tokens_per_chunk == [0, 0, 0]


async def test_on_a_real_loop_nothing_comes_early_and_the_timer_is_the_kernels() -> None:
    engine = ReferenceEngine()
    info = await engine.start(None, {"ttft_ms": "5", "itl_ms": "1"})
    try:
        recording, finish = await ask(engine, request(tokens=10))
    finally:
        await engine.close()
    assert all(ns >= (5 + k) * MS - 1_000 for k, ns in enumerate(recording.since_sent_ns()))  # 1 us: loop.time() is a float
    assert finish.stages.last_token_ns >= finish.stages.first_token_ns
    assert info.reports == ["usage", "stages", "stats"]


async def test_which_timer_a_loop_gets() -> None:
    real = make_timer(asyncio.get_running_loop(), lambda: None)
    assert isinstance(real, FdTimer)
    real.close()
    real.close()
    virtual_loop = VirtualLoop()
    assert isinstance(make_timer(virtual_loop, lambda: None), LoopTimer)
    virtual_loop.close()


async def test_max_tokens_of_zero_is_refused() -> None:
    engine = ReferenceEngine()
    await engine.start(None, {})
    try:
        with pytest.raises(EngineError, match="less than 1"):
            await engine.generate(request(tokens=0), Recording())
    finally:
        await engine.close()
