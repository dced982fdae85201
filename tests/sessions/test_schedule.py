"""The schedule of sessions: the same for the same seed, for every number of workers; its hash covers the graph."""

from __future__ import annotations

from typing import Any

import pytest

from bytemlperf.errors import UserError
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.plan.scenario import Scenario, load
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.prefixes import Prefix
from bytemlperf_llm.workload.schedule import Planned, Schedule, Share
from engines.contract import Message


def multiturn(**changes: Any) -> Scenario:
    return load("chat-multiturn").override({"num_sessions": 13, **changes})


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_share_whole_sessions_of_one_schedule(workers: int) -> None:
    whole = list(Schedule(multiturn(), 3).planned())
    dealt: dict[int, Planned] = {}
    for worker in range(workers):
        part = list(Schedule(multiturn(), 3).planned(Share(worker, workers)))
        sessions = {planned.request.session for planned in part}
        assert not sessions & {planned.request.session for planned in dealt.values()}
        dealt |= {planned.request.index: planned for planned in part}
    assert [dealt[index] for index in range(len(whole))] == whole
    assert len({planned.request.session for planned in whole}) == 13


def test_the_hash_covers_the_graph() -> None:
    def sha(seed: int = 3, **changes: Any) -> str:
        return Schedule(multiturn(**changes), seed).describe().sha256

    assert sha() == sha()
    think = {"prompts.sessions.think_ms": {"distribution": "constant", "value": 1}}
    turns = {"prompts.sessions.synthetic.turns": {"distribution": "constant", "value": 3}}
    assert len({sha(), sha(4), sha(**think), sha(**turns)}) == 4


def test_poisson_arrivals_are_of_sessions() -> None:
    arrival = {"process": "poisson", "rate": 2.0}
    schedule = Schedule(multiturn(arrival=arrival, num_sessions=None, duration_s=1000), 0)
    starts = [session.offset_ns for session in schedule.sessions()]
    assert 1800 < len(starts) < 2200
    assert all(start is not None and start < 1000 * NS_PER_S for start in starts)


def test_what_is_asked_aside_is_as_long_and_never_measured() -> None:
    workload = Workload(multiturn(), 0)
    measured = {request.messages for request in workload}
    aside = [workload.aside(index) for index in range(80)]
    assert not {request.messages for request in aside} & measured
    assert aside[3].text_length() > 0
    assert len(_words(aside[4].messages)) == len(_words(workload.request(4).messages))


def _words(messages: tuple[Message, ...] | None) -> list[str]:
    return " ".join(message.content for message in messages or ()).split()


def test_a_prompt_shares_the_system_prompt_and_template_with_those_before() -> None:
    found = Workload(multiturn(**{"prompts.tokenizer": "words"}), 0).sessions
    assert found is not None
    assert [found.session(number).turns[0].shared for number in range(3)] == [None, Prefix(0, 40), Prefix(0, 40)]
    unknown = Workload(multiturn(), 0).sessions
    assert unknown is not None
    assert [unknown.session(number).turns[0].shared for number in range(3)] == [None, Prefix(0), Prefix(0)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_requests": 5}, "num_requests would cut a session; give num_sessions"),
        ({"num_sessions": None}, "nothing ends the run; give num_sessions, duration_s, or both"),
        ({"arrival": {"process": "trace"}}, "process trace needs prompts.trace of a format with times"),
        ({"prompts": {"sessions": {"format": "dag_jsonl"}}}, "either synthetic or both format and file are needed"),
        ({"prompts": {"sessions": {"format": "dag", "file": "x"}}}, "valid: bailian_chains, dag_jsonl, lmcache_agentic"),
    ],
)
def test_keys_that_dont_go_together(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        multiturn(**changes)
    assert said in f"{caught.value.cause}; {caught.value.fix}"


def test_service_levels_of_sessions_need_sessions() -> None:
    with pytest.raises(UserError, match=r"num_sessions and slo\.session_ms need prompts\.sessions"):
        load("chat").override({"slo.session_ms": 100.0})
