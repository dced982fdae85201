"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it.

Everything that reads time reads this clock, so that a test of timing is exact to the nanosecond
and can't flake. Real sockets and threads don't belong here.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import Decoded, EngineError, EngineInfo, ErrorClass, Finish, Message, Request, Usage

MS = 1_000_000
DEFAULT_TIMEOUTS = Timeouts()


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: tells the loop's clock how far to jump."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen: every task waits for something that no timer brings")
        if timeout > 0:
            self.now_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0 s."""

    def __init__(self) -> None:
        self.jumping = _JumpingSelector()
        super().__init__(self.jumping)
        self._clock_resolution = 1e-10  # timers due within this are due now: under a nanosecond, over rounding

    def time(self) -> float:
        return self.jumping.now_s

    def now_ns(self) -> int:
        return round(self.jumping.now_s * NS_PER_S)


def run(make: Any) -> Any:
    """Run `make(loop)`, a coroutine function, on a new virtual loop."""
    loop = VirtualLoop()
    try:
        coroutine: Coroutine[Any, Any, Any] = make(loop)
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


class Script(NamedTuple):
    """What a scripted engine does with one request: delays in ns after it was sent."""

    chunks: Sequence[tuple[int, int]]  # (delay, tokens)
    error: ErrorClass | None = None
    connect_ns: int = 0
    hang: bool = False
    reported_tokens: int | None = None


class _NoOptions(msgspec.Struct):
    pass


class ScriptedEngine:
    """Answers by script on the loop's own timers; the truth that metrics are compared with.

    `slots` bounds how many run at once, the rest waits in the server's queue.
    """

    weights: ClassVar[Any] = "none"
    options_type: ClassVar[Any] = _NoOptions

    def __init__(self, scripts: Sequence[Script], slots: int = 10**9) -> None:
        self._scripts = scripts
        self._slots = asyncio.Semaphore(slots)
        self.started: list[int] = []

    async def start(self, _model: Any, _options: Any) -> EngineInfo:
        return EngineInfo(name="scripted")

    async def generate(self, request: Request, recorder: Any) -> Finish:
        script = self._scripts[request.index % len(self._scripts)]
        loop = asyncio.get_running_loop()
        if script.connect_ns:
            await sleep_ns(script.connect_ns)
        recorder.sent()
        async with self._slots:
            self.started.append(request.index)
            begin_s = loop.time()
            for delay_ns, tokens in script.chunks:
                await sleep_until_s(begin_s + delay_ns / NS_PER_S)
                recorder.chunk(tokens)
            if script.hang:
                await asyncio.sleep(1e9)
            if script.error is not None:
                raise EngineError(script.error, "as scripted")
        tokens = script.reported_tokens
        usage = Usage(prompt_tokens=3, output_tokens=tokens) if tokens is not None else None
        return Finish(reason="length", usage=usage)

    def decode(self, payloads: Sequence[Any]) -> Decoded:
        return Decoded(tokens_per_chunk=list(payloads), text="x" * sum(payloads))

    async def close(self) -> None:
        return None


async def sleep_ns(delay_ns: int) -> None:
    await sleep_until_s(asyncio.get_running_loop().time() + delay_ns / NS_PER_S)


async def sleep_until_s(when_s: float) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    timer = loop.call_at(when_s, lambda: done.done() or done.set_result(None))
    try:
        await done
    finally:
        timer.cancel()


class Collected:
    """A sink that keeps records."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.in_flight = 0

    def started(self) -> None:
        self.in_flight += 1

    def ended(self, record: RequestRecord) -> None:
        self.in_flight -= 1
        self.records.append(record)

    def by_index(self) -> list[RequestRecord]:
        return sorted(self.records, key=lambda record: record.index)


def make_request(index: int, max_tokens: int = 4) -> Request:
    return Request(index=index, id=f"r{index}", max_tokens=max_tokens, messages=(Message(role="user", content="hello"),))


def make_worker(
    loop: VirtualLoop,
    engine: Any,
    *,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    max_concurrency: int | None = None,
    drain_s: float = 30.0,
) -> tuple[Worker, Collected]:
    sink = Collected()
    config = WorkerConfig(timeouts=timeouts, max_concurrency=max_concurrency, drain_ns=round(drain_s * NS_PER_S))
    return Worker(engine, sink, Pacer(loop.now_ns), config, now=loop.now_ns), sink
