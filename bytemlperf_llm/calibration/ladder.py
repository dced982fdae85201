"""`bmp-llm doctor --calibrate`: the client's own error on this machine, against a server that stamps its writes.

The built-in reference server runs in a process of its own, on the last core where there is more than
one. The real worker drives the real `openai` engine at it, with the record log and the live metrics
of any run, up a ladder of Poisson rates. Then the records are joined, by request id, with the
server's own account: arrival, first and last write, all on CLOCK_MONOTONIC as our stamps. What the
server did late is in its stamps too, so that it's not blamed on the client.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.arrivals import processes as arrivals
from bytemlperf.child.limits import machine_busy_s
from bytemlperf.child.process import environment, kill, last_words, spawn
from bytemlperf.errors import UserError
from bytemlperf.runs.log import RecordLog
from bytemlperf.units import NS_PER_MS, NS_PER_S, NS_PER_US
from bytemlperf_llm.calibration.cache import machine
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.loadgen.engine_start import engine_class
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.loadgen.pacer import Pacer, real_pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.replay import Replay, Work
from bytemlperf_llm.loadgen.worker import WorkerConfig
from bytemlperf_llm.metrics.client_error import MAX_LOOP_BUSY, Calibration, CalibrationStep, Spread, Timer, spread
from bytemlperf_llm.metrics.definitions import bursts_of, chunk_gaps_ns, divide_ns, token_runs_ns, token_times
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload.schedule import Planned
from engines.contract import Engine, Message, Request

TTFT_MS, ITL_MS, TOKENS = 50, 10, 32
RATES = (10.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0)
"""Requests/s; 32 tokens each: 320 to 64,000 chunks per second, 4 to 720 streams."""

STEP_S = 5.0  # and under a second to drain: seven steps stay under a minute
WARM_UP = (50.0, 1.0)  # requests/s and seconds: connections, caches and code paths
MAX_BUSY = 0.9  # of a core: no higher step can be held
MIN_OFFERED_SHARE = 0.95  # the verdict's own limit for a rate that was not held
CONFIG = WorkerConfig(drain_ns=10 * NS_PER_S)
SERVER_START_TIMEOUT_S = 30.0
PACER_WAITS, PACER_WAIT_NS = 300, NS_PER_MS
TICK_SAMPLES = 10_000

Say = Callable[[str], None]


class Account(msgspec.Struct, frozen=True):
    """The server's stamps of one request, as `/stats` tells them."""

    arrival_ns: int
    first_write_ns: int | None = None
    last_write_ns: int | None = None
    tokens: int = 0


class Errors(NamedTuple):
    """Client stamp − server stamp, ns, one for each matched request (ITL: for each gap, against `itl_ns`)."""

    ttft_ns: list[int]
    tpot_ns: list[int]
    itl_ns: list[int]
    e2e_ns: list[int]
    lateness_ns: list[int]
    unmatched: int


def run_calibration(say: Say, rates: Sequence[float] = RATES, step_s: float = STEP_S) -> Calibration:
    """Measure. Raises UserError when the server can't be started."""
    with reference_server() as port, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_calibrate(port, say, rates, step_s))


async def _calibrate(port: int, say: Say, rates: Sequence[float], step_s: float) -> Calibration:
    async with AsyncExitStack() as stack:
        engine = engine_class("openai")()
        stack.push_async_callback(engine.close)
        await engine.start(None, {"base_url": f"http://127.0.0.1:{port}", "transport": "lean"})
        pacer = real_pacer()
        stack.callback(pacer.close)
        timer = await measure_timer(pacer)
        rung = Rung(engine, pacer, port)
        await rung.measure(*WARM_UP)

        async def measure(rate: float) -> CalibrationStep:
            say(f"{rate:g} requests/s for {step_s:g} s")
            return await rung.measure(rate, step_s)

        steps = await climb(rates, measure)
    return Calibration(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        ttft_ns=TTFT_MS * NS_PER_MS,
        itl_ns=ITL_MS * NS_PER_MS,
        tokens=TOKENS,
        timer=timer,
        steps=steps,
    )


# -- the ladder -----------------------------------------------------------------------------


async def climb(rates: Iterable[float], measure: Callable[[float], Awaitable[CalibrationStep]]) -> tuple[CalibrationStep, ...]:
    """Up the ladder until client or server is saturated; that step is the last, and marked."""
    steps: list[CalibrationStep] = []
    for rate in rates:
        step = await measure(rate)
        steps.append(msgspec.structs.replace(step, saturated=saturated(step)))
        if steps[-1].saturated:
            break
    return tuple(steps)


def saturated(step: CalibrationStep) -> str:
    """Who gave out: the client when its loop is busy, the server when its core is or it writes later than a token's time; where the rate
    wasn't offered, the client if its loop was over half busy, else whatever had the machine's cores meanwhile."""
    if step.loop_busy > MAX_BUSY:
        return "client"
    if step.server_busy > MAX_BUSY or step.server_write.p50_ns > ITL_MS * NS_PER_MS:
        return "server"
    if step.rate_offered >= MIN_OFFERED_SHARE * step.rate_asked:
        return ""
    return "client" if step.loop_busy > MAX_LOOP_BUSY else "machine"


# -- one rung ----------------------------------------------------------------------------------


class Rung:
    """Measures one step after another with the same engine, pacer and server."""

    def __init__(self, engine: Engine, pacer: Pacer, port: int) -> None:
        self._engine, self._pacer, self._port = engine, pacer, port
        self._count = 0

    async def measure(self, rate: float, seconds: float) -> CalibrationStep:
        """One step. `rate` is requests/s."""
        self._count += 1
        ask_server(self._port, "/reset")
        with tempfile.TemporaryDirectory(prefix="bmp-calibrate-") as folder:
            log = RecordLog(Path(folder) / "records.jsonl")
            metrics = LlmMetrics()
            replay = Replay(self._engine, self._pacer, log, metrics, Work(self._schedule(rate, seconds)), CONFIG)
            await replay.start()
            origin_ns, before = monotonic_ns() + replay.start_delay_ns, Usage.now()
            await replay.replay(origin_ns)
            metrics.flush()
            used = Usage.now().since(before)
            stats = ask_server(self._port, "/stats")
            log.close()
            decode = msgspec.json.Decoder(RequestRecord).decode
            records = [decode(line) for line in (Path(folder) / "records.jsonl").read_bytes().splitlines()]
        return step_of(rate, records, stats, origin_ns, used, replay.loop_utilisation)

    def _schedule(self, rate: float, seconds: float) -> Iterator[Planned]:
        offsets = arrivals.bounded(arrivals.offsets_ns("poisson", rate=rate, seed=self._count), duration_ns=round(seconds * NS_PER_S))
        words = (Message(role="user", content="How late are you? " * 8),)
        for index, offset_ns in enumerate(offsets):
            yield Planned(Request(index=index, id=f"step{self._count}-{index}", max_tokens=TOKENS, messages=words), offset_ns)


class Usage(NamedTuple):
    """Seconds on the wall, and of processor time: of this process, and of the whole machine."""

    wall_s: float
    process_s: float
    machine_s: float

    @classmethod
    def now(cls) -> Usage:
        return cls(time.monotonic(), time.process_time(), machine_busy_s())

    def since(self, before: Usage) -> Usage:
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))


def others_share(used: Usage, server_s: float, cores: int) -> float:
    """What everything but client and server used of the machine, 0 to 1."""
    return round(min(1.0, max(0.0, used.machine_s - used.process_s - server_s) / (used.wall_s * cores)), 4)


def step_of(
    rate: float, records: Sequence[RequestRecord], stats: dict[str, Any], origin_ns: int, used: Usage, loop_busy: float
) -> CalibrationStep:
    """A step from its records, the server's account and what was used meanwhile."""
    accounts = msgspec.convert(stats["requests"], dict[str, Account])
    errors = join(records, accounts, origin_ns, ITL_MS * NS_PER_MS)
    sent = sorted(record.sent_ns for record in records if record.sent_ns is not None)
    planned = sorted(record.planned_ns for record in records if record.planned_ns is not None)
    ended = [record for record in records if record.sent_ns is not None and record.chunk_ns]
    streaming_ns = sum(record.chunk_ns[-1] - (record.sent_ns or 0) for record in ended)
    whole_s = max((record.chunk_ns[-1] for record in ended), default=NS_PER_S) / NS_PER_S
    writes = stats["write_error_us"]
    return CalibrationStep(
        rate_asked=rate,
        rate_offered=rate if len(sent) < 2 else rate * (planned[-1] - planned[0]) / (sent[-1] - sent[0]) * len(sent) / len(planned),
        requests=len(records),
        unmatched=errors.unmatched,
        streams=streaming_ns / NS_PER_S / whole_s,
        chunks_per_s=sum(sum(map(bool, record.tokens_per_chunk)) for record in ended) / whole_s,
        tokens_per_s=sum(record.output_tokens for record in ended) / whole_s,
        loop_busy=round(loop_busy, 4),
        server_busy=round(stats["totals"]["cpu_s"] / used.wall_s, 4),
        others_busy=others_share(used, stats["totals"]["cpu_s"], os.cpu_count() or 1),
        lateness=spread(errors.lateness_ns),
        ttft=spread(errors.ttft_ns),
        tpot=spread(errors.tpot_ns),
        itl=spread(errors.itl_ns),
        e2e=spread(errors.e2e_ns),
        server_write=Spread(
            count=writes["count"], **{f"{name}_ns": round(writes.get(name, 0) * NS_PER_US) for name in ("p50", "p99", "max")}
        ),
    )


def join(records: Iterable[RequestRecord], accounts: dict[str, Account], origin_ns: int, itl_ns: int) -> Errors:
    """Every answered record beside the server's account of the same id. Records count from `origin_ns`.

    TTFT and E2E: our stamp of the first and last token − the write. TPOT: the difference of both over
    n − 1. What isn't answered, or what the server doesn't know whole, is unmatched.
    """
    found = Errors([], [], [], [], [], 0)
    unmatched = 0
    for record in records:
        times = token_times(record)
        if record.sent_ns is not None and record.planned_ns is not None:
            found.lateness_ns.append(record.sent_ns - record.planned_ns)
        account = accounts.get(record.id)
        if record.outcome != "ok" or not times.stamps_ns or account is None or account.tokens != record.output_tokens:
            unmatched += 1
            continue
        assert account.first_write_ns is not None
        assert account.last_write_ns is not None
        first, last = origin_ns + times.stamps_ns[0] - account.first_write_ns, origin_ns + times.stamps_ns[-1] - account.last_write_ns
        found.ttft_ns.append(first)
        found.e2e_ns.append(last)
        if record.output_tokens > 1:
            found.tpot_ns.append(divide_ns(last - first, record.output_tokens - 1))
        for gap, count in zip(*token_runs_ns(bursts_of(times, chunk_gaps_ns(times))), strict=True):
            found.itl_ns.extend([gap - itl_ns] * count)
    return found._replace(unmatched=unmatched)


# -- the timer ---------------------------------------------------------------------------------


async def measure_timer(pacer: Pacer) -> Timer:
    """Resolution of the clock, and how late the pacer returns."""
    stamps = [monotonic_ns() for _ in range(TICK_SAMPLES)]
    return Timer(
        resolution_ns=round(time.clock_getres(time.CLOCK_MONOTONIC) * NS_PER_S),
        tick_ns=min(after - before for before, after in pairwise(stamps) if after > before),
        overshoot=await overshoot(pacer),
    )


async def overshoot(pacer: Pacer) -> Spread:
    """How late the pacer returns from waits of a millisecond."""
    late = []
    for _ in range(PACER_WAITS):
        due_ns = monotonic_ns() + PACER_WAIT_NS
        await pacer.until(due_ns)
        late.append(monotonic_ns() - due_ns)
    return spread(late)


# -- the server ---------------------------------------------------------------------------------


@contextmanager
def reference_server() -> Iterator[int]:
    """The reference server as a child, on the last core where there are several; gives its port."""
    program = "from bytemlperf.child.inside import die_with_parent; die_with_parent(); from bytemlperf_llm.cli import main; main()"
    command = ["-c", program, "reference-server", "--port", "0"]
    command += ["--engine-option", f"ttft_ms={TTFT_MS}", "--engine-option", f"itl_ms={ITL_MS}"]
    with tempfile.TemporaryFile() as log:
        child = spawn(command, environment(), stdout=subprocess.PIPE, stderr=log)
        try:
            pin_apart(child.pid)
            assert child.stdout is not None
            url = child.stdout.readline().decode().strip()
            if not url:
                raise UserError(f"the reference server did not start: {last_words(log)}", "bmp-llm doctor says what is broken")
            yield int(url.rpartition(":")[2])
        finally:
            kill(child)


def pin_apart(process_id: int) -> None:
    """Keep a process on the last usable core where there are at least two; this process may use all."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= 2:
            os.sched_setaffinity(process_id, {cores[-1]})


def ask_server(port: int, path: str) -> dict[str, Any]:
    """One GET of the reference server, while the loop stands still."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SERVER_START_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer: dict[str, Any] = msgspec.json.decode(connection.getresponse().read())
        return answer
    finally:
        connection.close()
