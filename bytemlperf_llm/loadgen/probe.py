"""`rate: auto`: how much does this engine carry? A few seconds of closed loop tell.

Concurrency doubles from step to step. A step's token rate is taken over about one request's time, from when its new streams start to the
end of a request: whole cycles, where answers are equally long. Long answers that stream evenly are measured by a second of their
chunks, once new streams have started spread over another one. A step that brings less than `CLEAR_GAIN` over the one before is
measured again over more requests, and still longer while it even falls far behind (an engine may compile something in mid-climb); such a
measurement stands for the best one where it is near it.

The probe ends when a doubling brings less than `WORTHWHILE_GAIN`, when requests take `BROKEN_LATENCY` times as long as in the first step
or begin to fail: then the ceiling is found. It also ends, and says that the ceiling was not found, when this client is too busy
itself, at the limit on concurrency, or when its time is over. The scenario's share of the best step is then offered, so that the
run stays off saturation.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from math import ceil, floor
from typing import NamedTuple

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import ClockNs, RequestRecorder, monotonic_ns
from engines.contract import Engine, EngineError, Request

FIRST_CONCURRENCY = 4
MAX_CONCURRENCY = 4096
WORTHWHILE_GAIN = 1.05
"""Streams that share one engine approach its ceiling slowly: with a gain of 5 % a doubling leaves about 5 % of it."""
CLEAR_GAIN = 1.25
BROKEN_LATENCY = 20.0
BROKEN_FAILURES = 0.05
"""Of requests, beyond the share that failed in the first step."""
MIN_WINDOW_S, MAX_WINDOW_S = 0.2, 1.0
MIN_CAREFUL_S, MAX_CAREFUL_S = 0.5, 3.0
"""Of a step that grows clearly, and of one that doesn't."""
CAREFUL_REQUESTS = 100
NEAR_BEST = 0.8
DOUBTS = ((CLEAR_GAIN, MIN_CAREFUL_S), (NEAR_BEST, 1.0), (NEAR_BEST, 2.0), (NEAR_BEST, 4.0))
"""A step is measured again while it has less than so many times the throughput of the one before, for at least so many seconds."""
EVEN_WAIT = 0.2
"""A stream is even where the wait for its first token is less of its time; others are measured whole, however long they take."""
MAX_BUSY = 0.65
"""Of this client's event loop: at a share of 0.7 it is then under half busy, as the verdict demands of a run."""
FIRST_SHARE = 0.25
"""Of the probe's time, to wait for the first answer."""
DURATIONS_KEPT = 64
LULL = 0.02
"""Of a request's time, without the end of another: those that began together have ended."""
JOINED_SHARE = 0.95
"""Of new streams have had an answer at the end of their first window."""
WHOLE_CYCLE = 0.96
"""A window may end so much before a request's time has passed: at the end of that request."""


class Step(NamedTuple):
    """One concurrency and what it carried, over `seconds`; `busy` is this client's own event loop, 0 to 1."""

    concurrency: int
    tokens_per_s: float
    seconds: float
    busy: float = 0.0


class ProbeResult(NamedTuple):
    """What was found and chosen. `rate_per_s` is what will be offered, in requests or, of so many `turns` each, in sessions
    (`arrivals_per_s`); `ended` says why the probe did, `requests` how many were answered and `seconds` what it took. Where nothing is
    generated `mean_output_tokens` is 0, and steps have requests in place of tokens."""

    steps: list[Step]
    best: Step
    mean_output_tokens: float
    share: float
    rate_per_s: float
    ceiling_found: bool
    ended: str
    requests: int
    seconds: float
    turns: float | None = None

    @property
    def arrivals_per_s(self) -> float:
        """Requests/s, or sessions/s."""
        return self.rate_per_s if self.turns is None else float(f"{self.rate_per_s / self.turns:.3g}")

    def sentence(self) -> str:
        """What was chosen and why, for a person."""
        sessions = "" if self.turns is None else f" = {self.arrivals_per_s:.3g} sessions/s of {self.turns:.3g} turns"
        advice = "" if self.ceiling_found else "; the server may carry more: give a --request-rate"
        carried, lengths = f"{self.best.tokens_per_s:,.0f} tokens/s", f"/ {self.mean_output_tokens:.0f} tokens a request "
        if not self.mean_output_tokens:
            carried, lengths = f"{self.best.tokens_per_s:.4g} requests/s", ""
        return (
            f"rate auto: {carried} at {self.best.concurrency} streams "
            f"{lengths}× share {self.share:g} = {self.rate_per_s:.3g} requests/s{sessions} "
            f"(probed {', '.join(str(step.concurrency) for step in self.steps)} streams, "
            f"{self.requests} requests in {self.seconds:.1f} s); "
            f"{'' if self.ceiling_found else 'CEILING NOT FOUND: '}{self.ended}{advice}"
        )


class _Ending(NamedTuple):
    ceiling_found: bool
    why: str


class _Mark(NamedTuple):
    """How many chunks had come at a time."""

    at_ns: int
    chunks: int


class _CountingRecorder(RequestRecorder):
    """Keeps the payloads for counting tokens later, and the total of chunks now."""

    __slots__ = ("_probe",)

    def __init__(self, probe: Probe, now: ClockNs) -> None:
        super().__init__(now)
        self._probe = probe

    def chunk(self, payload: object) -> None:
        super().chunk(payload)
        self._probe.chunks += 1
        if self._probe.first_chunk_ns is None:
            self._probe.first_chunk_ns = self.chunk_ns[0]
        if self._probe.arrived is not None:
            self._probe.arrived.set()

    def lists(self) -> None:
        """None: every chunk is to be counted."""


class Probe:
    """One probe of one engine; `find` runs it."""

    def __init__(
        self, engine: Engine, requests: Iterator[Request], pacer: Pacer, now: ClockNs = monotonic_ns, cpu_ns: ClockNs = time.thread_time_ns
    ) -> None:
        self._engine, self._requests, self._pacer, self._now, self._cpu_ns = engine, requests, pacer, now, cpu_ns
        self._reading_ns: ClockNs = getattr(engine, "reading_ns", int)  # int() is 0: no thread reads
        self.chunks = 0
        self._done = self._failed = self._done_chunks = self._done_tokens = self._done_max_tokens = 0
        self._durations_s: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self._waits_s: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self._failure: EngineError | None = None
        self._ended, self._last_end = asyncio.Event(), _Mark(0, 0)
        self.arrived: asyncio.Event | None = None
        self._begin_ns = self._end_ns = 0
        self._joining = 0  # new streams without an answer
        self.first_chunk_ns: int | None = None

    async def find(self, probe_s: float, share: float, mean_output_tokens: float, max_concurrency: int | None = None) -> ProbeResult:
        """Takes at most `probe_s`. Raises EngineError when not one request was answered."""
        self._begin_ns = self._now()
        self._end_ns = self._begin_ns + round(probe_s * NS_PER_S)
        lanes: list[asyncio.Task[None]] = []
        try:
            measured, ending = await self._climb(lanes, min(max_concurrency or MAX_CONCURRENCY, MAX_CONCURRENCY), probe_s)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
        if not self.chunks:
            raise self._failure or EngineError("first_token_timeout", "no token arrived while probing")
        seconds = (self._now() - self._begin_ns) / NS_PER_S
        measured = measured or [Step(len(lanes), self.chunks / seconds, seconds)]
        steps, best, mean_output_tokens = self._in_tokens(measured, mean_output_tokens)
        rate_per_s = float(f"{best.tokens_per_s / (mean_output_tokens or 1) * share:.3g}")
        return ProbeResult(steps, best, mean_output_tokens, share, max(rate_per_s, 0.001), *ending, self._done, seconds)

    # -- steps --------------------------------------------------------------------------

    async def _climb(self, lanes: list[asyncio.Task[None]], ceiling: int, probe_s: float) -> tuple[list[Step], _Ending]:
        """Steps with chunks in place of tokens, and why there are no more."""
        steps: list[Step] = []
        first: tuple[float | None, float] | None = None
        for concurrency in _doubling(min(FIRST_CONCURRENCY, ceiling), ceiling):
            done, failed, busy_ns, begin_ns = self._done, self._failed, self._busy_ns(), self._now()
            begin = await self._join(lanes, concurrency, probe_s)
            window = await self._window(begin, concurrency, 1, MIN_WINDOW_S, MAX_WINDOW_S)
            for doubtful, least_s in DOUBTS:
                if steps and window is not None and window[0].tokens_per_s < doubtful * steps[-1].tokens_per_s:
                    window = await self._window(window[1], concurrency, CAREFUL_REQUESTS, least_s, max(least_s, MAX_CAREFUL_S)) or window
            if window is None:
                return steps, _Ending(False, f"the probe's time budget ended before {concurrency} streams were measured")
            steps.append(window[0]._replace(busy=round((self._busy_ns() - busy_ns) / max(1, self._now() - begin_ns), 3)))
            now = self._typical_s(), (self._failed - failed) / max(1, self._done - done + self._failed - failed)
            first = first or now
            ended = self._ended_by(steps, first, now)
            if ended is not None:
                return steps, ended
        limit = "limit of max_concurrency" if ceiling < MAX_CONCURRENCY else "probe's limit"
        return steps, _Ending(False, f"throughput still grew at {ceiling} streams, the {limit}")

    def _ended_by(self, steps: list[Step], first: tuple[float | None, float], now: tuple[float | None, float]) -> _Ending | None:
        """`first` and `now`: typical seconds of a request, and the share that failed, in the first and in the latest step."""
        last, (first_s, first_failed), (typical_s, failed) = steps[-1], first, now
        if last.busy > MAX_BUSY:
            return _Ending(False, f"this client was {last.busy:.0%} busy itself at {last.concurrency} streams")
        if self._failure is not None and self._failure.error_class == "client_limit":
            return _Ending(False, f"this client met its own limit at {last.concurrency} streams: {self._failure.detail}")
        if failed > first_failed + BROKEN_FAILURES:
            return _Ending(True, f"requests started failing at {last.concurrency} streams")
        if len(steps) > 1 and last.tokens_per_s < WORTHWHILE_GAIN * steps[-2].tokens_per_s:
            return _Ending(True, f"{last.concurrency} streams brought {last.tokens_per_s / steps[-2].tokens_per_s - 1:+.0%}")
        if first_s is not None and typical_s is not None and typical_s > BROKEN_LATENCY * first_s:
            return _Ending(True, f"requests took {typical_s / first_s:.0f} times as long at {last.concurrency} streams as at first")
        if self._left_s() <= 0:
            return _Ending(False, f"throughput still grew at {last.concurrency} streams when the probe's time budget ended")
        return None

    async def _join(self, lanes: list[asyncio.Task[None]], concurrency: int, probe_s: float) -> _Mark:
        """Start new lanes; the first ones are given time until one of them has an answer, or streams evenly."""
        new, begin = concurrency - len(lanes), self._last_end if self._whole(MAX_WINDOW_S) else self._mark()
        spread_s = 0.0 if not lanes or self._whole(MAX_WINDOW_S) else MAX_WINDOW_S
        self._joining = ceil(JOINED_SHARE * new)
        lanes += [asyncio.ensure_future(self._lane(spread_s * place / new)) for place in range(new)]
        if new == concurrency:
            begin = await self._next_end(FIRST_SHARE * probe_s)
            if not self._durations_s and not self._streams_evenly(begin.at_ns):
                begin = await self._next_end(probe_s)
        elif spread_s:
            await self._pass(spread_s)
            begin = self._mark()
        return begin

    async def _window(self, begin: _Mark, concurrency: int, requests: int, least_s: float, most_s: float) -> tuple[Step, _Mark] | None:
        """Chunks per second over so many requests, within the limits, and its end; None where the probe's time is over before."""
        typical_s = self._typical_s()
        if typical_s is not None and self._whole(most_s):
            cycles = max(1, ceil(least_s / typical_s), min(ceil(requests / concurrency), floor(most_s / typical_s)))
            end = await self._whole_requests(begin, typical_s, cycles)
        else:
            begin = await self._next_chunk(most_s)
            await self._pass(most_s)
            end = await self._next_chunk(most_s)
        if self._left_s() <= 0:
            return None
        seconds = max((end.at_ns - begin.at_ns) / NS_PER_S, 1e-9)
        return Step(concurrency, (end.chunks - begin.chunks) / seconds, seconds), end

    async def _whole_requests(self, begin: _Mark, typical_s: float, cycles: int) -> _Mark:
        """The end of a window of so many requests' times in which each new stream had an answer."""
        until_ns = self._now() + round(2 * typical_s * NS_PER_S)
        while self._joining > 0 and self._now() < until_ns:
            await self._one_end(typical_s)
        left_s = cycles * typical_s * WHOLE_CYCLE - (self._now() - begin.at_ns) / NS_PER_S
        await self._pass(max(left_s, 0.0))
        if left_s < 0 and not await self._one_end(LULL * typical_s):
            return self._last_end
        return await self._next_end(typical_s)

    def _typical_s(self) -> float | None:
        """Mean duration of the latest answers; None before the first."""
        return sum(self._durations_s) / len(self._durations_s) if self._durations_s else None

    def _whole(self, most_s: float) -> bool:
        """Whether a window is whole requests."""
        typical_s = self._typical_s()
        return typical_s is not None and (typical_s <= most_s or not self._streams_evenly(self._now()))

    def _streams_evenly(self, now_ns: int) -> bool:
        """By the answers; before the first, by when the first token came."""
        if self._durations_s:
            return sum(self._waits_s) < EVEN_WAIT * sum(self._durations_s)
        return self.first_chunk_ns is not None and self.first_chunk_ns - self._begin_ns < EVEN_WAIT * (now_ns - self._begin_ns)

    # -- time ---------------------------------------------------------------------------

    def _left_s(self) -> float:
        return (self._end_ns - self._now()) / NS_PER_S

    def _busy_ns(self) -> int:
        return self._cpu_ns() + self._reading_ns()

    def _mark(self) -> _Mark:
        return _Mark(self._now(), self.chunks)

    async def _pass(self, seconds: float) -> None:
        await self._pacer.until(min(self._now() + round(seconds * NS_PER_S), self._end_ns))

    async def _next_end(self, limit_s: float) -> _Mark:
        """When the next request ended, and those that end with it; now, where none does within the limit."""
        until_ns = self._now() + round(limit_s * NS_PER_S)
        if not await self._one_end(limit_s):
            return self._mark()
        lull_s = LULL * (self._typical_s() or 0.0)
        while self._now() < until_ns and await self._one_end(lull_s):
            pass
        return self._last_end

    async def _one_end(self, limit_s: float) -> bool:
        """Wait for the end of a request; whether one came within the limit."""
        self._ended.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), max(min(limit_s, self._left_s()), 0.0))
        return self._ended.is_set()

    async def _next_chunk(self, limit_s: float) -> _Mark:
        """When the next chunk has come, with all that came at once; now, where none does within the limit."""
        self.arrived = asyncio.Event()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.arrived.wait(), max(min(limit_s, self._left_s()), 0.0))
        self.arrived = None
        return self._mark()

    # -- requests -----------------------------------------------------------------------

    async def _lane(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        for place, request in enumerate(self._requests):
            recorder, begin_ns = _CountingRecorder(self, self._now), self._now()
            try:
                await self._engine.generate(request, recorder)
                end = self._mark()
                decoded = self._engine.decode(recorder.payloads)
                if decoded.error_class is not None:
                    raise EngineError(decoded.error_class, decoded.error_detail)
            except EngineError as error:
                self._failure = error
                self._failed += 1
                await asyncio.sleep(0.1)
                continue
            self._joining -= place == 0
            self._durations_s.append((end.at_ns - begin_ns) / NS_PER_S)
            self._waits_s.append(((recorder.chunk_ns or [end.at_ns])[0] - begin_ns) / NS_PER_S)
            self._last_end = end
            self._ended.set()
            self._done += 1
            self._done_max_tokens += request.max_tokens
            self._done_chunks += len(recorder.payloads)
            self._done_tokens += sum(decoded.tokens_per_chunk) if request.max_tokens else 1

    def _in_tokens(self, measured: list[Step], mean_output_tokens: float) -> tuple[list[Step], Step, float]:
        """The steps in tokens, the best of them, and the mean length of an answer."""
        tokens_per_chunk = self._done_tokens / self._done_chunks if self._done_chunks else 1.0
        steps = [step._replace(tokens_per_s=step.tokens_per_s * tokens_per_chunk) for step in measured]
        if self._done_max_tokens:  # answers may end before max_tokens; a share, since the short ones are done first
            mean_output_tokens = max(mean_output_tokens * self._done_tokens / self._done_max_tokens, 1.0)
        best = max([step for step in steps if step.busy <= MAX_BUSY] or steps[:1], key=lambda step: step.tokens_per_s)
        careful = steps[-1].busy <= MAX_BUSY and steps[-1].tokens_per_s >= NEAR_BEST * best.tokens_per_s
        return steps, steps[-1] if careful else best, mean_output_tokens


def _doubling(first: int, ceiling: int) -> Iterator[int]:
    for power in count():
        yield min(first << power, ceiling)
        if first << power >= ceiling:
            return
