"""One event loop that sends and times: due request → engine → record.

Open loop: requests leave at absolute planned times and never wait for answers; a cap on concurrency
queues them here, and that queueing counts, since latency runs from the planned time. Closed loop:
a fixed number of requests is kept in flight.

A request's life is `_one`. Whatever happens in it becomes fields of a record at one boundary,
`_ended`; only a bug in this program raises. What an answer means is worked out a little later, between
reads and sends (`_settle`): a lane sends its next request first, and no backlog of decoding makes a
stamp late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

from bytemlperf.redaction import Redactor
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.deadlines import Timeouts, Watch, Watchdog
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import ClockNs, RequestRecorder, monotonic_ns
from bytemlperf_llm.loadgen.stamped import make_record
from bytemlperf_llm.record.record import Outcome, RequestRecord
from bytemlperf_llm.workload.prefixes import NOTHING, Prefix
from bytemlperf_llm.workload.schedule import Planned
from engines.client_limits import client_limit
from engines.contract import FAILED_REASONS, FINISH_REASONS, Decoded, Engine, EngineError, ErrorClass, Finish, Request, ServerFacts

MAX_WORD_CHARS = 64  # of a finish reason, or a name
SETTLE_NS = 200_000  # decode and record for so long before reads and sends have their turn
MAX_UNSETTLED = 32  # ended requests without a record: with more, some are written before the next is sent
YIELD_EVERY = 64  # a late schedule starts at most so many requests before answers are read again


class Sink(Protocol):
    """Takes what happens, on the event loop: must be quick."""

    def started(self) -> None:
        """A request is on its way to the engine."""

    def ended(self, record: RequestRecord) -> None:
        """A request has ended, in whatever way."""


class WorkerConfig(NamedTuple):
    """Limits of one worker. `max_concurrency` None is unlimited."""

    timeouts: Timeouts = Timeouts()
    max_concurrency: int | None = None
    drain_ns: int = 30 * NS_PER_S
    keep_output: bool = False
    worker: int = 0


class _Ending(NamedTuple):
    """How a request ended, as far as its task knows."""

    outcome: Outcome = "ok"
    error_class: ErrorClass | None = None
    detail: str = ""


class _Ended(NamedTuple):
    """A request that is over and has no record yet."""

    request: Request
    recorder: RequestRecorder
    finish: Finish
    ending: _Ending
    end_ns: int
    sent_to_engine: bool


_WELL = _Ending()
_NO_FINISH = Finish()


class Worker:
    """Replays a schedule against an engine. `origin_ns` is zero of the record's times; `hears` gets the text of each response."""

    def __init__(
        self,
        engine: Engine,
        sink: Sink,
        pacer: Pacer,
        config: WorkerConfig,
        *,
        now: ClockNs = monotonic_ns,
        redactor: Redactor | None = None,
        hears: Callable[[str], None] | None = None,
    ) -> None:
        self._hears = hears
        self._engine, self._sink, self._pacer, self._config = engine, sink, pacer, config
        self._endpoint_of: Callable[[Request], str | None] = getattr(engine, "endpoint_of", lambda _: None)
        self._now, self._redactor = now, redactor or Redactor()
        self._word = lru_cache(maxsize=64)(partial(self._redactor.clean, most_chars=MAX_WORD_CHARS))  # few, and often
        self._slots = asyncio.Semaphore(config.max_concurrency) if config.max_concurrency else None
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchdog = Watchdog(config.timeouts, now, self._carries_token)
        self._stop = asyncio.Event()
        self._drained = False
        self._unsettled: deque[_Ended] = deque()
        self._settling = False
        self.prefixes: dict[int, Prefix | None] = {}  # of requests without a record, where they are known
        self.origin_ns = 0
        self.issued = 0

    # -- schedules -----------------------------------------------------------------

    async def run_open(self, schedule: Iterable[Planned], origin_ns: int) -> None:
        """Send every request at its time, then drain."""
        self.origin_ns = origin_ns
        for planned in schedule:
            assert planned.offset_ns is not None
            due_ns = origin_ns + planned.offset_ns
            if not await self._due(due_ns):
                break
            self.issued += 1
            self._track(self._one(planned.request, due_ns))
        await self._drain()

    async def _due(self, due_ns: int) -> bool:
        """Wait until then; False when the run was stopped meanwhile."""
        if due_ns > self._now():
            await self._pacer.until(due_ns)
        elif self.issued % YIELD_EVERY == 0:
            await asyncio.sleep(0)
        return not self._stop.is_set()

    async def run_closed(
        self, requests: Iterator[Request], concurrency: int, origin_ns: int, end_ns: int | None = None, *, together: bool = False
    ) -> None:
        """Keep `concurrency` requests in flight until they run out or `end_ns` has come, then drain; `together`: send so many at once, and
        the next ones when all of them have ended."""
        self.origin_ns = origin_ns
        lives = [self._queries(requests, concurrency, end_ns)] if together else [self._lane(requests, end_ns) for _ in range(concurrency)]
        lanes = [self._track(life) for life in lives]
        ending = asyncio.ensure_future(self._stop.wait() if end_ns is None else self._pacer.until(end_ns))
        exhausted = asyncio.ensure_future(asyncio.wait(lanes))
        await asyncio.wait({ending, exhausted}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        exhausted.cancel()
        await self._drain()

    async def _lane(self, requests: Iterator[Request], end_ns: int | None) -> None:
        task = asyncio.current_task(self._loop)
        while self._sends_more(end_ns) and (request := next(requests, None)) is not None:
            self.issued += 1
            await self._one(request, None, task)

    async def _queries(self, requests: Iterator[Request], samples: int, end_ns: int | None) -> None:
        while self._sends_more(end_ns) and (query := list(islice(requests, samples))):
            self.issued += len(query)
            await asyncio.wait([self._track(self._one(request, None)) for request in query])

    def _sends_more(self, end_ns: int | None) -> bool:
        return not (self._stop.is_set() or self._drained) and (end_ns is None or self._now() < end_ns)

    def stop(self) -> None:
        """Send nothing more; what is in flight may finish within the drain limit."""
        self._stop.set()
        self._pacer.interrupt()

    def finish(self) -> None:
        """Begin nothing more."""
        self.stop()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    @property
    def unsettled(self) -> int:
        """Requests that have ended and have no record yet."""
        return len(self._unsettled)

    def _track(self, life: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(life)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _drain(self) -> None:
        """Give what is in flight its time, then end it: those requests are `in_flight`."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._config.drain_ns / NS_PER_S)
        self._drained = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        while self._unsettled:
            self._ended(self._unsettled.popleft())
        self._watchdog.close()

    # -- one request ------------------------------------------------------------------

    async def _one(self, request: Request, planned_ns: int | None, task: asyncio.Task[None] | None = None) -> None:
        """The life of a request, start to end, in this task."""
        recorder = RequestRecorder(self._now, planned_ns)
        task = task or asyncio.current_task(self._loop)
        assert task is not None
        watch: Watch | None = None
        finish, ending = _NO_FINISH, _WELL
        try:
            if self._slots is not None:
                await self._slots.acquire()
            try:
                if self._slots is not None and self._stop.is_set():
                    raise asyncio.CancelledError
                watch = self._watchdog.watch(recorder, task)
                self._sink.started()
                finish = await self._engine.generate(request, recorder)
            finally:
                if self._slots is not None:
                    self._slots.release()
        except EngineError as error:
            ending = _Ending("failed", error.error_class, error.detail)
        except asyncio.CancelledError:
            ending = self._why_cancelled(watch)
            task.uncancel()
        except Exception as error:
            failure = client_limit(error) or EngineError("engine_failed", f"{type(error).__name__}: {error}")
            ending = _Ending("failed", failure.error_class, failure.detail)
        if watch is not None:
            self._watchdog.end(watch)
        unsettled = self._unsettled
        unsettled.append(_Ended(request, recorder, finish, ending, self._now(), watch is not None))
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)
        if len(unsettled) > MAX_UNSETTLED:  # an answer isn't safe before its record
            self._settle_some()

    def _settle(self) -> None:
        """Records of requests that have ended, for as long as there are any, with reads and sends in between."""
        self._settle_some()
        self._settling = bool(self._unsettled)
        if self._settling:
            self._loop.call_soon(self._settle)

    def _settle_some(self) -> None:
        unsettled, now = self._unsettled, self._now
        until_ns = now() + SETTLE_NS
        while unsettled:
            self._ended(unsettled.popleft())
            if now() >= until_ns:
                return

    def _decoded(self, payloads: list[Any]) -> Decoded:
        """What the engine makes of them; one that raises, against its contract, loses this answer alone."""
        try:
            return self._engine.decode(payloads)
        except Exception as error:
            detail = f"the response can't be decoded: {type(error).__name__}: {error}"
            return Decoded(tokens_per_chunk=[0] * len(payloads), text="", error_class="engine_failed", error_detail=detail)

    def _carries_token(self, payloads: list[Any]) -> bool:
        return any(self._decoded(payloads).tokens_per_chunk)

    def _why_cancelled(self, watch: Watch | None) -> _Ending:
        if watch is None:
            return _Ending("dropped", None, "never left this client's queue")
        if watch.expired is not None:
            return _Ending("failed", watch.expired, "no progress within the timeout")
        return _Ending("in_flight", None, "still running at the drain timeout")

    def _ended(self, ended: _Ended) -> None:
        request, recorder, finish, ending, end_ns, sent_to_engine = ended
        decoded = self._decoded(recorder.payloads) if recorder.payloads else _NOTHING
        if self._hears is not None:
            self._hears(decoded.text)
        if ending is _WELL:
            ending = _judged(request, recorder, finish, decoded)
        record = make_record(request, recorder, finish, decoded, self.origin_ns, end_ns)
        record.worker = self._config.worker
        record.outcome, record.error_class = ending.outcome, ending.error_class
        if ending.detail:
            record.error_detail = self._redactor.clean(ending.detail)
        if record.finish_reason and record.finish_reason not in FINISH_REASONS:
            record.finish_reason = self._word(record.finish_reason)
        if record.server is not None:
            record.server = self._clean_facts(record.server)
        if self._config.keep_output:
            record.output = self._redactor(decoded.text)
        if sent_to_engine:
            record.endpoint = self._endpoint_of(request)
        else:
            self._sink.started()
        self._keep(record, decoded.text, recorder.payloads)

    def _clean_facts(self, server: ServerFacts) -> ServerFacts:
        known_by = None if server.request_id is None else self._redactor.clean(server.request_id)
        durations_ns = {self._word(name): duration_ns for name, duration_ns in server.durations_ns.items()}
        return ServerFacts(durations_ns=durations_ns, request_id=known_by, refused=server.refused)

    def _keep(self, record: RequestRecord, _text: str, _payloads: list[Any]) -> None:
        """Where every record ends, with its answer."""
        if record.index in self.prefixes:
            prefix = self.prefixes.pop(record.index) or NOTHING
            record.prefix_index = prefix.index
            record.reusable_tokens = record.prompt_tokens if prefix.whole else prefix.tokens
        self._sink.ended(record)


_NOTHING = Decoded(tokens_per_chunk=[], text="")


def _judged(request: Request, recorder: RequestRecorder, finish: Finish, decoded: Decoded) -> _Ending:
    """An answer that arrived is still a failure when it says so itself, or brings no token, or another number of vectors or scores, where
    some were asked for."""
    if not recorder.payloads:
        return _Ending("failed", "empty_response", "the engine returned nothing")
    if decoded.error_class is not None:
        return _Ending("failed", decoded.error_class, decoded.error_detail)
    if finish.reason in FAILED_REASONS:
        return _Ending("failed", "engine_failed", f"the engine aborted the response: finish reason '{finish.reason}'")
    if request.inputs is not None and decoded.outputs != len(request.inputs):
        return _Ending("failed", "invalid_output", f"{decoded.outputs} vectors or scores for {len(request.inputs)} inputs")
    if request.max_tokens > 0 and not any(decoded.tokens_per_chunk):
        return _Ending("failed", "no_token", f"a response without tokens (finish reason: {decoded.reason or 'none'})")
    return _WELL
