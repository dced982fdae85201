"""`rate: auto`: how much does this engine carry? A few seconds of closed loop tell.

Concurrency doubles from step to step, and each step's token rate is taken over its second half.
The probe ends when a doubling brings less than `WORTHWHILE_GAIN`, or when its time is over. The
scenario's share of the best step is then offered, so that the run stays off saturation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import ClockNs, RequestRecorder, monotonic_ns
from engines.contract import Engine, EngineError, Request

NS_PER_S = 1_000_000_000
FIRST_CONCURRENCY = 4
MAX_CONCURRENCY = 1024
STEPS = 4  # of which a slow engine gets all; a fast one may stop sooner
WORTHWHILE_GAIN = 1.10
SETTLE_S = 0.5  # for the engine to see what was cancelled


class Step(NamedTuple):
    """One concurrency and what it carried, over `seconds`."""

    concurrency: int
    tokens_per_s: float
    seconds: float


class ProbeResult(NamedTuple):
    """What was found and chosen. `rate_per_s` is what will be offered."""

    steps: list[Step]
    best: Step
    mean_output_tokens: float
    share: float
    rate_per_s: float

    def sentence(self) -> str:
        """What was chosen and why, for a person."""
        return (
            f"rate auto: {self.best.tokens_per_s:,.0f} tokens/s at {self.best.concurrency} streams "
            f"/ {self.mean_output_tokens:.0f} tokens a request × share {self.share:g} = {self.rate_per_s:.3g} requests/s "
            f"(probed {', '.join(str(step.concurrency) for step in self.steps)} streams)"
        )


class _CountingRecorder(RequestRecorder):
    """Keeps the payloads for counting tokens later, and the total of chunks now."""

    __slots__ = ("_probe",)

    def __init__(self, probe: Probe, now: ClockNs) -> None:
        super().__init__(now)
        self._probe = probe

    def chunk(self, payload: object) -> None:
        super().chunk(payload)
        self._probe.chunks += 1

    def lists(self) -> None:
        """None: every chunk is to be counted."""


class Probe:
    """One probe of one engine; `find` runs it."""

    def __init__(self, engine: Engine, requests: Iterator[Request], pacer: Pacer, now: ClockNs = monotonic_ns) -> None:
        self._engine, self._requests, self._pacer, self._now = engine, requests, pacer, now
        self.chunks = 0
        self._done_chunks = self._done_tokens = self._done_max_tokens = 0
        self._failure: EngineError | None = None

    async def find(self, probe_s: float, share: float, mean_output_tokens: float, max_concurrency: int | None = None) -> ProbeResult:
        """Raises EngineError when not one request was answered."""
        ceiling = min(max_concurrency or MAX_CONCURRENCY, MAX_CONCURRENCY)
        lanes: list[asyncio.Task[None]] = []
        measured: list[tuple[int, float, float]] = []
        try:
            for concurrency in _doubling(min(FIRST_CONCURRENCY, ceiling), ceiling):
                while len(lanes) < concurrency:
                    lanes.append(asyncio.ensure_future(self._lane()))
                chunks_per_s, seconds = await self._step(probe_s / STEPS)
                measured.append((concurrency, chunks_per_s, seconds))
                if len(measured) == STEPS or (len(measured) > 1 and chunks_per_s < WORTHWHILE_GAIN * measured[-2][1]):
                    break
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
        return self._result(measured, share, mean_output_tokens)

    async def _step(self, seconds: float) -> tuple[float, float]:
        """Chunks per second in the second half of a step."""
        begin_ns = self._now()
        await self._pacer.until(begin_ns + round(seconds / 2 * NS_PER_S))
        half_ns, chunks = self._now(), self.chunks
        await self._pacer.until(begin_ns + round(seconds * NS_PER_S))
        span_s = (self._now() - half_ns) / NS_PER_S
        return (self.chunks - chunks) / span_s, span_s

    async def _lane(self) -> None:
        for request in self._requests:
            recorder = _CountingRecorder(self, self._now)
            try:
                finish = await self._engine.generate(request, recorder)
            except EngineError as error:
                self._failure = error
                await asyncio.sleep(0.1)
                continue
            decoded = self._engine.decode(recorder.payloads)
            usage = finish.usage or decoded.usage
            self._done_max_tokens += request.max_tokens
            self._done_chunks += len(recorder.payloads)
            self._done_tokens += (usage and usage.output_tokens) or sum(decoded.tokens_per_chunk)

    def _result(self, measured: list[tuple[int, float, float]], share: float, mean_output_tokens: float) -> ProbeResult:
        if not self.chunks:
            raise self._failure or EngineError("first_token_timeout", "no token arrived while probing")
        tokens_per_chunk = self._done_tokens / self._done_chunks if self._done_chunks else 1.0
        steps = [Step(concurrency, rate * tokens_per_chunk, span) for concurrency, rate, span in measured]
        best = max(steps, key=lambda step: step.tokens_per_s)
        if self._done_max_tokens:  # answers may end before max_tokens; a share, since the short ones are done first
            mean_output_tokens = max(mean_output_tokens * self._done_tokens / self._done_max_tokens, 1.0)
        rate_per_s = float(f"{best.tokens_per_s / mean_output_tokens * share:.3g}")
        return ProbeResult(steps, best, mean_output_tokens, share, max(rate_per_s, 0.001))


def _doubling(first: int, ceiling: int) -> Iterator[int]:
    for power in count():
        yield min(first << power, ceiling)
        if first << power >= ceiling:
            return
