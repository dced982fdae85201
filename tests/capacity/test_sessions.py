"""The highest number of users that holds: the real scheduler and search on a virtual clock, with engines of known capacity."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.capacity.probe import Plan, Probe
from bytemlperf_llm.capacity.probing import Columns, Looks, SessionColumns
from bytemlperf_llm.capacity.search import Goal, Search
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.sessions import SessionWork, SessionWorker
from bytemlperf_llm.loadgen.worker import WorkerConfig
from bytemlperf_llm.workload.schedule import PlannedSession
from bytemlperf_llm.workload.sessions.graph import Session
from engines.contract import Finish, Request, Usage
from tests.sessions.graphs import request, turn
from tests.virtual import ScriptedEngine, VirtualLoop, run, sleep_until_s

TURNS, SHARE, LOOK_S = 4, 0.9, 0.1
SERVICE_S, THINK_S = 0.01, 0.1


class Queue(ScriptedEngine):
    """One server, first come, first served; exponential service."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__([])
        self._chance, self._free_s = chance, 0.0

    async def generate(self, request: Request, recorder: Any) -> Finish:
        recorder.sent()
        self._free_s = max(asyncio.get_running_loop().time(), self._free_s) + self._service_s(request)
        await sleep_until_s(self._free_s)
        recorder.chunk(1)
        return Finish(reason="length", usage=Usage(prompt_tokens=1, output_tokens=1))

    def _service_s(self, _: Request) -> float:
        return self._chance.expovariate(1 / SERVICE_S)


class Cliff(Queue):
    """Every turn takes 20 ms with up to eight in flight, and 60 ms with more; one in fifty fails anyhow."""

    in_flight = 0

    async def generate(self, request: Request, recorder: Any) -> Finish:
        self.in_flight += 1
        recorder.sent()
        try:
            await sleep_until_s(
                asyncio.get_running_loop().time() + (0.02 if self.in_flight <= 8 else 0.06) * self._chance.uniform(0.9, 1.1)
            )
        finally:
            self.in_flight -= 1
        recorder.chunk(1)
        return Finish(reason="length", usage=Usage(prompt_tokens=1, output_tokens=1))


def thinking(chance: random.Random, think_s: float, rate: float | None = None) -> Iterator[PlannedSession]:
    """Sessions without end, each turn of which follows a think time; Poisson arrivals at a rate."""
    now_s = 0.0
    for number in count():
        now_s += chance.expovariate(rate) if rate else 0.0
        delays = [round(chance.expovariate(1 / think_s) * NS_PER_S) if think_s else 0 for _ in range(TURNS)]
        turns = [
            turn(f"q{i}", *([i - 1] if i else []), delay_ns=delay if i else 0, at_ns=0 if i else delay) for i, delay in enumerate(delays)
        ]
        yield PlannedSession(Session(id=str(number), turns=tuple(turns)), number * TURNS, round(now_s * NS_PER_S) if rate else None)


def probe(
    plan: Plan, seed: int, engine: Callable[[random.Random], Queue], columns: Columns, think_s: float, *, open_loop: bool = False
) -> Probe:
    chance = random.Random(f"{seed}-{plan.load}")

    async def main(loop: VirtualLoop) -> Probe:
        looks = Looks(plan, columns, SHARE, ends_itself=False)
        worker = SessionWorker(engine(chance), columns, Pacer(loop.now_ns), WorkerConfig(), now=loop.now_ns)
        planned = thinking(chance, think_s, plan.load if open_loop else None)
        users = None if open_loop else int(plan.load)
        running = asyncio.ensure_future(worker.run_sessions(SessionWork(planned, request, "recorded"), 0, users))
        while not looks.is_enough():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        worker.finish()
        await running
        assert looks.last is not None
        return Probe(plan.load, looks.last, plan.purpose, errors=plan.errors)

    return run(main)


def met_by(users: int, limit_s: float) -> float:
    """Of M/M/1 with so many users (machine repair): who arrives sees the queue of one user less (arrival theorem), and waits an
    Erlang time of one phase more than that."""
    weights = [math.prod((users - 1 - i) * SERVICE_S / THINK_S for i in range(n)) for n in range(users)]
    erlang = [
        1 - sum(math.exp(-limit_s / SERVICE_S) * (limit_s / SERVICE_S) ** k / math.factorial(k) for k in range(n + 1)) for n in range(users)
    ]
    return sum(weight * met for weight, met in zip(weights, erlang, strict=True)) / sum(weights)


def searched(goal: Goal, first: float, probed: Callable[[Plan, int], Probe]) -> Search:
    search = Search(goal, first)
    while (plan := search.plan()) is not None:
        search.tell(probed(plan, len(search.probes)))
    return search


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_users_holds_the_truth(seed: int) -> None:
    limit_s = 0.08
    truth = max(users for users in range(1, 40) if met_by(users, limit_s) >= SHARE)
    assert 8 <= truth <= 16
    goal = Goal(share=SHARE, within=0.3, max_requests=30_000, whole=True, turnover=TURNS)
    search = searched(goal, 3, lambda plan, place: probe(plan, 100 * seed + place, Queue, Columns({"e2el": 1e3 * limit_s}), THINK_S))
    assert search.holds_at is not None
    assert search.fails_at is not None
    assert search.holds_at <= truth < search.fails_at
    assert search.requests <= goal.max_requests


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_a_rate_of_sessions_holds_the_truth(seed: int) -> None:
    """An open network in product form: each turn sees M/M/1 at the rate of all turns (Jackson, Operations Research 5(4), 1957)."""
    limit_s = 0.08
    truth = (1 / SERVICE_S + math.log(1 - SHARE) / limit_s) / TURNS
    goal = Goal(share=SHARE, within=0.2, max_requests=40_000, turnover=TURNS * TURNS * (THINK_S + SERVICE_S))
    columns = {"e2el": 1e3 * limit_s}
    search = searched(goal, 4, lambda plan, place: probe(plan, 100 * seed + place, Queue, Columns(columns), THINK_S, open_loop=True))
    assert search.holds_at is not None
    assert search.fails_at is not None
    assert search.holds_at <= truth < search.fails_at


def test_whole_sessions_are_judged_by_their_own_level() -> None:
    """Four turns take 80 ms with eight users, and 240 ms with nine."""
    goal = Goal(share=SHARE, within=0.01, max_requests=20_000, whole=True)
    search = searched(goal, 2, lambda plan, place: probe(plan, place, Cliff, SessionColumns({"session": 120.0}), 0.0))
    assert (search.holds_at, search.fails_at) == (8, 9)
