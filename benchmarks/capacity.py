"""Is the capacity right? `bmp-llm capacity`'s search on simulated engines of known capacity, beside the rules of two other tools.

    python -m benchmarks.capacity [--seeds 200] [--engines M/M/1,cliff] [--controls 500,5000] [--max-requests 20000]

The truth is the highest rate at which 95 % of requests meet their level: by formula for M/M/1, by definition for the cliff, and by a
simulation of `TRUTH_REQUESTS` at each of a few rates for the others. Shown for each engine and rule, over all seeds: the share of
answers [holds at, fails at] that hold the truth, the share whose holding rate is above it, requests (median), and width (median). Each
seed starts its search at another rate. The controls are re-implemented from what their projects publish, for rates in place of
concurrency, and are given ever more requests a probe, until their answers hold the truth as often as ours have to:
- guidellm, profile `goodput` (pull request 1086): double until the share of good requests is under the target, bisect to a relative
  tolerance; a probe passes by its point estimate;
- aiperf, `monotonic` (docs/sweeping/find-max-passing-concurrency.md): double until p95 is over the level, bisect until the bracket is
  within its precision; a point's verdict is the first that two of its trials agree on.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Callable, Iterator
from multiprocessing import Pool
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from bytemlperf.statistics.looks import looks, spent
from bytemlperf_llm.capacity.judge import look_at
from bytemlperf_llm.capacity.probe import Plan, Probe, is_enough
from bytemlperf_llm.capacity.search import Goal, Search

SHARE, WITHIN = 0.95, 0.10
MAX_REQUESTS = 1_000_000
TRUTH_REQUESTS = 4_000_000
CONTROL_REQUESTS = (500, 5_000, 50_000, 150_000)
LEAST_COVERAGE, MOST_ABOVE = 0.95, 0.025
FIRST_RATE, SPREAD = 3.0, 0.35
US = 1_000_000
Floats = Any  # numpy array of float64


class Stream:
    """Requests of one probe at one rate, which starts with an empty engine. `more` is the next n: due times and latencies in seconds."""

    def __init__(self, engine: Engine, rate: float, rng: np.random.Generator) -> None:
        self.engine, self.rate, self.rng = engine, rate, rng
        self.now, self.backlog, self.free = 0.0, 0.0, [0.0] * engine.servers

    def more(self, count: int) -> tuple[Floats, Floats]:
        gaps = self.rng.exponential(1 / self.rate, count)
        due = self.now + np.cumsum(gaps)
        self.now = float(due[-1])
        service = self.engine.service(self, due)
        waits = self._one_queue(gaps, service) if self.engine.servers == 1 else self._many(due.tolist(), service.tolist())
        return due, waits + service if self.engine.servers == 1 else waits

    def _one_queue(self, gaps: Floats, service: Floats) -> Floats:
        """Lindley's recursion, as a running sum less its running minimum."""
        steps = np.concatenate(([self.backlog - gaps[0]], service[:-1] - gaps[1:]))
        walk = np.cumsum(steps)
        waits = walk - np.minimum(np.minimum.accumulate(walk), 0.0)
        self.backlog = float(waits[-1] + service[-1])
        return waits

    def _many(self, due: list[float], service: list[float]) -> Floats:
        """First come, first served by several; who waited too long is preempted, and does part of its work twice."""
        free, again, patience, waits = self.free, self.engine.again, self.engine.patience, []
        for at, work in zip(due, service, strict=True):
            begin = max(at, free[0])
            heapq.heapreplace(free, begin + work * (again if begin - at > patience else 1.0))
            waits.append(begin - at)
        return np.array(waits)


class Engine(NamedTuple):
    """Carries about 100 requests/s. `limit_s` is the service level."""

    name: str
    limit_s: float
    service: Callable[[Stream, Floats], Floats]
    servers: int = 1
    again: float = 1.0
    patience: float = math.inf
    truth: float | None = None


def exponential(stream: Stream, due: Floats) -> Floats:
    return stream.rng.exponential(0.01, len(due))


def constant(_: Stream, due: Floats) -> Floats:
    return np.full(len(due), 0.01)


def lognormal(stream: Stream, due: Floats) -> Floats:
    sigma = 1.0
    return stream.rng.lognormal(math.log(0.08) - sigma**2 / 2, sigma, len(due))


def cliff(stream: Stream, due: Floats) -> Floats:
    """In 1 % of requests slow below 80 requests/s, in half of them above."""
    slow = stream.rng.random(len(due)) < (0.01 if stream.rate <= 80.0 else 0.5)
    return np.where(slow, 0.011, 0.001)


def drifting(stream: Stream, due: Floats) -> Floats:
    """Constant service at a speed that wanders by 3 % and forgets in 5 s: an autoregression on a grid of seconds."""
    first, last = getattr(stream, "speed_s", -1), int(due[-1]) + 2
    speeds: list[float] = getattr(stream, "speeds", [])
    level = speeds[-1] if speeds else float(stream.rng.normal())
    keep = math.exp(-1 / 5.0)
    for shock in stream.rng.normal(size=last - first).tolist():
        level = keep * level + math.sqrt(1 - keep**2) * shock
        speeds.append(level)
    stream.speeds, stream.speed_s = speeds, last  # type: ignore[attr-defined]
    return 0.01 * np.exp(0.03 * np.array(speeds)[due.astype(int)])


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("M/M/1", 0.15, exponential, truth=100 + math.log(1 - SHARE) / 0.15),
        Engine("M/D/1", 0.065, constant),
        Engine("M/G/8 lognormal", 0.15, lognormal, servers=8),
        Engine("cliff", 0.010, cliff, truth=80.0),
        Engine("slow drift", 0.12, drifting),
        Engine("preempts", 0.25, lognormal, servers=8, again=1.15, patience=0.1),
    )
}


# -- the truth --------------------------------------------------------------------------------


def truth_of(engine: Engine) -> float:
    """Where the simulated share of misses crosses the limit: a straight line of its logit over the rate, through rates that close in."""
    if engine.truth is not None:
        return engine.truth
    low, high = 50.0, 99.0
    for requests in (TRUTH_REQUESTS // 20,) * 5 + (TRUTH_REQUESTS // 4,) * 2:
        middle = (low + high) / 2
        low, high = (middle, high) if _missed(engine, middle, requests) < 1 - SHARE else (low, middle)
    centre = (low + high) / 2
    points = [(rate := centre + step, _logit(_missed(engine, rate, TRUTH_REQUESTS))) for step in (-1.0, 0.0, 1.0)]
    slope, height = np.polyfit([rate for rate, _ in points], [logit for _, logit in points], 1)
    return float((_logit(1 - SHARE) - height) / slope)


def _missed(engine: Engine, rate: float, requests: int) -> float:
    stream = Stream(engine, rate, np.random.default_rng(round(rate * 1e6)))
    stream.more(requests // 50)
    return float(np.mean(np.concatenate([stream.more(100_000)[1] for _ in range(max(1, requests // 100_000))]) > engine.limit_s))


def _logit(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(share / (1 - share))


# -- rules ------------------------------------------------------------------------------------


class Answer(NamedTuple):
    holds: float
    fails: float
    requests: int


def ours(engine: Engine, seed: int, max_requests: int = MAX_REQUESTS, within: float = WITHIN) -> Answer:
    rng = np.random.default_rng(seed)
    search = Search(Goal(share=SHARE, within=within, max_requests=max_requests), _first_rate(rng))
    while (plan := search.plan()) is not None:
        search.tell(_probe(engine, plan, rng))
    return Answer(search.holds_at or 0.0, search.fails_at or math.inf, search.requests)


def _first_rate(rng: np.random.Generator) -> float:
    return FIRST_RATE * math.exp(rng.uniform(-SPREAD, SPREAD))


def _probe(engine: Engine, plan: Plan, rng: np.random.Generator) -> Probe:
    stream, sizes = Stream(engine, plan.load, rng), looks(plan.first, plan.limit)
    parts: list[tuple[Floats, Floats]] = []
    for place, size in enumerate(sizes):
        parts.append(stream.more(size - sum(len(times) for times, _ in parts)))
        due, latency = (np.concatenate(column) for column in zip(*parts, strict=True))
        columns = ((latency > engine.limit_s).astype(np.int64), (latency * US).astype(np.int64), (due * US).astype(np.int64))
        look = look_at(*columns, SHARE, plan.errors.times(spent(sizes, place)))
        if is_enough(plan, look, SHARE):
            break
    return Probe(plan.load, look, plan.purpose, errors=plan.errors)


def bisecting(engine: Engine, seed: int, requests: int, trials: int, relative_to_high: bool) -> Answer:
    """Double until a rate fails, then bisect; a point's verdict is the first that `trials` of its probes agree on."""
    rng, sent = np.random.default_rng(seed), 0

    def passes(rate: float) -> bool:
        nonlocal sent
        votes = [0, 0]
        while max(votes) < trials:
            sent += requests
            votes[bool(np.mean(Stream(engine, rate, rng).more(requests)[1] <= engine.limit_s) >= SHARE)] += 1
        return votes[1] >= trials

    low, high, rate = 0.0, math.inf, _first_rate(rng)
    while high == math.inf or (high - low > WITHIN * (high if relative_to_high else low)):
        low, high = (rate, high) if passes(rate) else (low, rate)
        rate = rate * 2 if high == math.inf else high / 2 if low == 0.0 else (low + high) / 2
    return Answer(low, high, sent)


def guidellm(engine: Engine, seed: int, requests: int) -> Answer:
    return bisecting(engine, seed, requests, trials=1, relative_to_high=False)


def aiperf(engine: Engine, seed: int, requests: int) -> Answer:
    return bisecting(engine, seed, requests, trials=2, relative_to_high=True)


# -- the table --------------------------------------------------------------------------------


class Row(NamedTuple):
    engine: str
    rule: str
    truth: float
    covers: float
    above: float
    requests: float
    width: float

    @property
    def good(self) -> bool:
        return self.covers >= LEAST_COVERAGE and self.above <= MOST_ABOVE

    def line(self) -> str:
        return (
            f"| {self.engine} | {self.truth:.1f} | {self.rule} | {self.covers:.1%} | {self.above:.1%} | {self.requests:,.0f} "
            f"| {'unbounded' if math.isinf(self.width) else f'{self.width:.0%}'} |"
        )


HEAD = "| engine | truth, requests/s | rule | holds the truth | names too much | requests | width |\n|---|---|---|---|---|---|---|"


def row_of(engine: Engine, rule: str, truth: float, answers: list[Answer]) -> Row:
    count = len(answers)
    return Row(
        engine.name,
        rule,
        truth,
        sum(answer.holds <= truth <= answer.fails for answer in answers) / count,
        sum(answer.holds > truth for answer in answers) / count,
        median(answer.requests for answer in answers),
        median(answer.fails / answer.holds - 1 if answer.holds else math.inf for answer in answers),
    )


def rows_of(
    engine: Engine, seeds: int, pool: Any, controls: tuple[int, ...] = CONTROL_REQUESTS, max_requests: int = MAX_REQUESTS
) -> Iterator[Row]:
    truth = truth_of(engine)
    answers = pool.starmap(_run, [(engine.name, "ours", seed, max_requests) for seed in range(seeds)], chunksize=4)
    yield row_of(engine, "bmp-llm", truth, answers)
    for rule in ("guidellm", "aiperf"):
        for requests in controls:
            answers = pool.starmap(_run, [(engine.name, rule, seed, requests) for seed in range(seeds)], chunksize=4)
            row = row_of(engine, f"{rule}, {requests:,} a probe", truth, answers)
            yield row
            if row.good:
                break


def _run(name: str, rule: str, seed: int, requests: int) -> Answer:
    engine = ENGINES[name]
    return ours(engine, seed, requests) if rule == "ours" else (guidellm if rule == "guidellm" else aiperf)(engine, seed, requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--controls", default=",".join(map(str, CONTROL_REQUESTS)), help="requests a probe; empty: no controls")
    parser.add_argument("--max-requests", type=int, default=MAX_REQUESTS, help="of the search")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    controls = tuple(int(text) for text in options.controls.split(",") if text)
    print(HEAD)
    with Pool(options.processes) as pool:
        for name in options.engines.split(","):
            for row in rows_of(ENGINES[name], options.seeds, pool, controls, options.max_requests):
                print(row.line(), flush=True)


if __name__ == "__main__":
    main()
