"""The server's prefix cache before a run: left as it is, emptied, or filled with the run's own prompts.

Cold is the engine's own reset where it has one that answers. Elsewhere it is a salt, one for the whole run, at the beginning of
every prompt: the run's prompts share what they would share, and no prompt that was sent before begins like one of them. Warm is a
request of a single token for every prompt of the schedule, a session's longest ones in place of all its turns, before the measurement.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

import msgspec

from bytemlperf_llm.loadgen.replay import worker_config
from bytemlperf_llm.metrics.prefix import ServerCounts
from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.run import preflight
from bytemlperf_llm.run.rebuild import AS_IS, CacheBefore, cache_of
from bytemlperf_llm.workload.salt import fresh_salt
from bytemlperf_llm.workload.schedule import ALL, CLOSED_HASHED_REQUESTS, Remaining, Schedule
from engines.contract import Engine, Request


async def prepare_cache(
    engine: Engine, scenario: Scenario, seed: int, say: preflight.Say, left: Remaining | None = None
) -> tuple[Scenario, CacheBefore]:
    """Bring the cache into the scenario's state right before the measured part; the scenario as it is sent then. Of a run that goes on with
    what is `left`, cold stays as it was."""
    state = scenario.cache
    if state == "warm":
        requests = list(primers(Schedule(scenario, seed), left))
        timeouts = worker_config(scenario, ALL, keep_output=False).timeouts
        answered = await preflight.send_aside(engine, requests, timeouts)
        before = CacheBefore(state, f"{answered:,} of {len(requests):,} prompts sent before")
    elif state == "cold" and left is None:
        reset: Callable[[], Awaitable[str]] = getattr(engine, "reset_cache", _no_call)
        call = await reset()
        scenario = scenario.override({"prompts.salt": None if call else fresh_salt()})
        before = CacheBefore(state, call or f"salt [{scenario.prompts.salt}] before every prompt")
    else:
        before = CacheBefore(state)
    if before.how:
        say(f"prefix cache: {before.text()}")
    return scenario, before


async def _no_call() -> str:
    return ""


class PrefixCounts:
    """The server's own counters of its prefix cache over the measured part, where it has some."""

    def __init__(self, engine: Engine) -> None:
        self._ask: Callable[[], Awaitable[tuple[int, int | None] | None]] = getattr(engine, "prefix_counts", _no_counts)
        self._begin: tuple[int, int | None] | None = None

    async def begin(self) -> None:
        """Before the first request."""
        self._begin = await self._ask()

    async def end(self, run: dict[str, Any]) -> None:
        """Add what they grew by to run.json; nothing where the server was started again."""
        begin, end = self._begin, await self._ask()
        if begin is None or end is None or end[1] is None or end[0] < begin[0]:
            return
        before = cache_of(run) or AS_IS
        server = before.server or ServerCounts(query_tokens=0, hit_tokens=0)
        queries, hits = end[0] - begin[0], end[1] - (begin[1] or 0)
        grown = ServerCounts(query_tokens=server.query_tokens + queries, hit_tokens=server.hit_tokens + hits)
        run["cache"] = msgspec.to_builtins(msgspec.structs.replace(before, server=grown))


async def _no_counts() -> None:
    return None


def primers(schedule: Schedule, left: Remaining | None = None) -> Iterator[Request]:
    """Requests of one token whose prompts hold all prompts of the schedule; of one without an end, of its beginning."""
    workload, keys = schedule.workload(), schedule.scenario.prompts.sessions
    seen: set[int] = set()
    for planned in islice(schedule.planned(left=left, workload=workload), None if schedule.ends else CLOSED_HASHED_REQUESTS):
        request = planned.request
        if keys is not None and workload.sessions is not None:
            session, turn = workload.sessions.place(request.index)
            continued = any(each.continues == turn for each in session.turns)
            if (continued and keys.answers == "recorded") or (session.turns[turn].continues is not None and keys.answers == "live"):
                continue
        prompt = hash((request.messages, request.prompt, request.token_ids, request.inputs))
        if prompt not in seen:
            seen.add(prompt)
            yield msgspec.structs.replace(request, id=f"{request.id}-prime", max_tokens=min(request.max_tokens, 1))
