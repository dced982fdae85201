"""Runs of a simulated server with one planted cause of slow requests: records, gauges and connection times as a client would write them.

A server of continuous batching takes one step after the other: it admits while slots and KV cache allow, prefills up to a budget of tokens,
decodes one token for each stream, preempts the youngest where the cache is full. Load, lengths, speed, noise and the size of the planted
fault are drawn anew for each seed.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from math import exp

from bytemlperf_llm.record.gauges import Sample
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import Stages

MS, S = 1_000_000, 1_000_000_000


@dataclass
class Server:
    """One server and its load. Times in ms, lengths in tokens; spells are (begin, end) in ms from the run's origin."""

    requests: int
    rate: float  # requests/s
    burstiness: float  # gamma's shape of the gaps: 1 is Poisson
    prompt: float  # median of lognormal lengths
    prompt_spread: float
    output: float
    output_spread: float
    step: float
    stream_step: float  # more for each stream in the batch
    prefill: float  # per 1,000 tokens
    jitter: float  # share of a step, exponential
    noise: float  # median of what a request waits for no reason, its tokens later by so much
    noise_spread: float
    stamps: bool  # the engine gives its stages
    slots: int = 256
    budget: int = 1 << 20  # tokens prefilled in a step
    cache: int = 1 << 30  # tokens
    long_share: float = 0.0
    long_prompt: int = 0
    pauses: list[tuple[float, float]] = field(default_factory=list)
    blocked: list[tuple[float, float]] = field(default_factory=list)  # the client
    slow_way: list[tuple[float, float]] = field(default_factory=list)
    way: float = 0.3  # one way
    slow_way_more: float = 0.0


@dataclass
class Job:
    """A request in the server."""

    index: int
    to_prefill: int
    held: int = 0
    queued: float = 0.0
    scheduled: float | None = None
    emitted: list[float] = field(default_factory=list)


@dataclass
class Run:
    """What is left of a run. `connects` are (ns from the origin, ns) of connections opened once a second."""

    records: list[RequestRecord]
    samples: list[Sample]
    connects: list[tuple[int, int]]


def run_of(server: Server, seed: int) -> Run:
    return _Simulation(server, random.Random(f"planted {seed}")).run()


class _Simulation:
    def __init__(self, server: Server, chance: random.Random) -> None:
        self._server, self._chance = server, chance
        self.now, self._preempted = 0.0, 0
        self._samples: list[Sample] = []
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._due, due = [], 0.0
        for _ in range(server.requests):
            due += chance.gammavariate(server.burstiness, 1e3 / server.rate / server.burstiness)
            self._due.append(due)
        long = [chance.random() < server.long_share for _ in self._due]
        few = [max(4, round(chance.lognormvariate(0, server.prompt_spread) * server.prompt)) for _ in self._due]
        many = [round(server.long_prompt * chance.uniform(0.7, 1.3)) for _ in self._due]
        self._prompts = [(few, many)[much][index] for index, much in enumerate(long)]
        self._outputs = [max(2, round(chance.lognormvariate(0, server.output_spread) * server.output)) for _ in self._due]
        self._sent = [next((end for begin, end in server.blocked if begin <= due < end), due) + chance.uniform(0, 0.2) for due in self._due]

    def _way(self, at: float) -> float:
        """One way's ms."""
        slow = any(begin <= at < end for begin, end in self._server.slow_way)
        more = self._server.slow_way_more * self._chance.lognormvariate(0, 0.3) if slow else 0.0
        return self._server.way * self._chance.uniform(0.8, 1.5) + more

    def run(self) -> Run:
        jobs = [Job(index, self._prompts[index]) for index in range(len(self._sent))]
        ready = sorted((sent + self._way(sent), index) for index, sent in enumerate(self._sent))
        taken = 0
        while taken < len(ready) or self._waiting or self._active:
            upto = bisect_right(ready, (self.now, len(jobs)))
            for at, index in ready[taken:upto]:
                jobs[index].queued = at
                self._waiting.append(jobs[index])
            taken = max(taken, upto)
            if not self._waiting and not self._active:
                self._sample(ready[taken][0])
                self.now = ready[taken][0]
                continue
            self._step()
        records = [self._record(job) for job in jobs]
        ends = max(record.end_ns for record in records) / MS
        connects = [(round(at * MS), round((self._way(at) + self._way(at)) * MS)) for at in range(0, round(ends), 1_000)]
        return Run(records, self._samples, connects)

    def _held(self) -> int:
        return sum(job.held for job in self._active)

    def _step(self) -> None:
        server = self._server
        while self._waiting and len(self._active) < server.slots:
            needed = self._waiting[0].to_prefill
            if self._active and self._held() + needed > server.cache:
                break
            job = self._waiting.popleft()
            job.held = needed
            job.scheduled = job.scheduled or self.now
            self._active.append(job)
        budget, done = server.budget, []
        for job in self._active:
            part = min(job.to_prefill, budget)
            job.to_prefill -= part
            budget -= part
            if not job.to_prefill:
                done.append(job)
        plain = server.step + server.stream_step * len(self._active) + server.prefill * (server.budget - budget) / 1e3
        end = self.now + plain * (1 + server.jitter * self._chance.expovariate(1.0))
        end += sum(stop - begin for begin, stop in server.pauses if self.now <= begin < end)
        self._sample(end)
        self.now = end
        for job in done:
            job.held += 1
            job.emitted.append(end)
        self._active = [job for job in self._active if len(job.emitted) < self._outputs[job.index]]
        while self._held() > server.cache and len(self._active) > 1:
            job = self._active.pop()
            job.to_prefill, job.held = self._prompts[job.index] + len(job.emitted), 0
            self._preempted += 1
            self._waiting.appendleft(job)

    def _sample(self, until: float) -> None:
        while len(self._samples) * 1e3 < until:
            usage = min(self._held() / self._server.cache, 1.0)
            gauges = {"running": float(len(self._active)), "waiting": float(len(self._waiting)), "kv_cache_usage": usage}
            gauges["preemptions"] = float(self._preempted)
            self._samples.append(Sample(at_ns=len(self._samples) * S, gauges=gauges))

    def _record(self, job: Job) -> RequestRecord:
        stamps: list[int] = []
        later = self._chance.lognormvariate(0, self._server.noise_spread) * self._server.noise
        job.emitted = [emitted + later for emitted in job.emitted]
        for emitted in job.emitted:
            stamps.append(max(round((emitted + self._way(emitted)) * MS), stamps[-1] + 1 if stamps else 0))
        own = (job.queued, job.scheduled or job.queued, job.emitted[0], job.emitted[-1])
        queued, scheduled, first, last = (round(stamp * MS) for stamp in own)
        stages = Stages(queued_ns=queued, scheduled_ns=scheduled, first_token_ns=first, last_token_ns=last)
        return RequestRecord(
            id=f"r{job.index}",
            index=job.index,
            planned_ns=round(self._due[job.index] * MS),
            sent_ns=round(self._sent[job.index] * MS),
            first_byte_ns=stamps[0],
            chunk_ns=stamps,
            tokens_per_chunk=[1] * len(stamps),
            end_ns=stamps[-1],
            outcome="ok",
            prompt_tokens=self._prompts[job.index],
            output_tokens=len(stamps),
            max_tokens=len(stamps),
            finish_reason="length",
            stages=stages if self._server.stamps else None,
        )


# -- the planted causes ---------------------------------------------------------------------


def _usual(chance: random.Random, noise: float, noise_spread: float) -> Server:
    """A server with room to spare, noise of some kind or other up to a tail that nothing explains, and nothing wrong."""
    step = chance.uniform(5, 20)
    output = chance.uniform(40, 160)
    streams = chance.uniform(1.0, 8.0)
    return Server(
        requests=chance.randint(300, 700),
        rate=streams / (output * 1.1 * step / 1e3),
        burstiness=chance.choice((0.5, 1.0, 1.0, 4.0)),
        prompt=chance.uniform(100, 500),
        prompt_spread=chance.uniform(0.1, 0.5),
        output=output,
        output_spread=chance.uniform(0.0, 0.6),
        step=step,
        stream_step=chance.uniform(0.0, 0.02) * step,
        prefill=chance.uniform(2, 10),
        jitter=chance.uniform(0.02, 0.3),
        noise=chance.choice((0.1, chance.uniform(0.1, noise))),
        noise_spread=chance.uniform(0.1, noise_spread),
        stamps=chance.random() < 0.4,
    )


def _length_ms(server: Server) -> float:
    return server.requests / server.rate * 1e3


def _spells(chance: random.Random, until: float, every: float, long: float) -> list[tuple[float, float]]:
    """Stretches of about `long` ms, each some `every` ms after the one before."""
    spells, at = [], chance.uniform(0.2, 1.0) * every
    while at < until:
        end = at + long * chance.uniform(0.6, 1.4)
        spells.append((at, end))
        at = end + every * chance.uniform(0.5, 1.5)
    return spells


def _busy(server: Server, streams: float) -> None:
    """At a rate that keeps so many streams in the mean."""
    step = server.step + server.stream_step * streams
    server.rate = streams / (server.output * exp(server.output_spread**2 / 2) * step / 1e3)


def _queue(server: Server, chance: random.Random) -> None:
    """Slots for what the load needs in the mean, and little more."""
    server.slots = chance.randint(3, 12)
    _busy(server, server.slots * chance.uniform(0.85, 1.05))


def _kv_cache(server: Server, chance: random.Random) -> None:
    """A cache that holds what the load needs in the mean, and little more."""
    streams = chance.uniform(8, 24)
    _busy(server, streams)
    held = server.prompt * exp(server.prompt_spread**2 / 2) + server.output * exp(server.output_spread**2 * 1.5) / 2
    server.cache = round(streams * held * chance.uniform(0.95, 1.2))


def _prefill(server: Server, chance: random.Random) -> None:
    """Some prompts are long, prefilled at once or in pieces."""
    server.long_share = chance.uniform(0.04, 0.15)
    server.prefill = chance.uniform(20, 120)
    server.long_prompt = round(chance.uniform(15, 50) * 1e3 * server.step / server.prefill)
    server.budget = chance.choice((1 << 20, 2_048, 4_096))
    work = server.rate / 1e3 * (server.long_share * server.long_prompt + server.prompt) * server.prefill / 1e3
    server.rate *= min(1.0, chance.uniform(0.15, 0.5) / work)


def _pauses(server: Server, chance: random.Random) -> None:
    """The server stops: collected garbage, a compilation, a neighbour."""
    long = chance.uniform(20, 80) * server.step
    server.pauses = _spells(chance, _length_ms(server), long * chance.uniform(5, 15), long)


def _client(server: Server, chance: random.Random) -> None:
    """The client is busy, and sends late what was due meanwhile."""
    long = chance.uniform(20, 80) * server.step
    server.blocked = _spells(chance, _length_ms(server), long * chance.uniform(4, 12), long)


def _network(server: Server, chance: random.Random) -> None:
    """The way is slow for seconds at a time."""
    server.stamps = False
    server.slow_way = _spells(chance, _length_ms(server), chance.uniform(12, 40) * 1e3, chance.uniform(3, 8) * 1e3)
    server.slow_way_more = chance.uniform(8, 40) * server.step


PLANTS = {"queue": _queue, "kv cache": _kv_cache, "prefill": _prefill, "pauses": _pauses, "client": _client, "network": _network}
CLEAN = "none"


def server_with(cause: str, seed: int) -> Server:
    """A server with this cause, or `CLEAN`."""
    chance = random.Random(f"{cause} {seed}")
    if cause == CLEAN:
        return _usual(chance, noise=40.0, noise_spread=1.5)
    server = _usual(chance, noise=10.0, noise_spread=0.8)
    PLANTS[cause](server, chance)
    return server
