"""The server's prefix cache before a run: left as it is, emptied, or filled with the run's own prompts.

Cold is the engine's own reset where it has one that answers. Elsewhere it is a salt, one for the whole run, at the beginning of
every prompt: the run's prompts share what they would share, and no prompt that was sent before begins like one of them. Warm is a
request of a single token for every prompt of the schedule, a session's longest ones in place of all its turns, before the measurement.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

import msgspec

from bytemlperf_llm.loadgen.replay import worker_config
from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.run import preflight
from bytemlperf_llm.run.rebuild import CacheBefore
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
