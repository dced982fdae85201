"""Made-up agents: what waits for what, whose messages stand where, and the same for the same seed."""

from __future__ import annotations

from itertools import islice

from bytemlperf_llm.plan.scenario import load
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.sessions.graph import Session
from bytemlperf_llm.workload.sessions.synthetic import synthetic
from tests.virtual import MS

AGENT = load("agent")


def sessions(seed: int, count: int) -> list[Session]:
    found = Workload(AGENT.override({"prompts.tokenizer": "words"}), seed).sessions
    assert found is not None
    return [found.session(number) for number in range(count)]


def test_results_answer_the_calls_before_them() -> None:
    for session in sessions(0, 16):
        for turn in session.turns:
            results = [message.tool_call_id for message in turn.messages if message.role == "tool"]
            called = [] if turn.continues is None else [call.id for call in session.turns[turn.continues].tool_calls]
            assert results == called
            assert bool(results) == (turn.messages[-1].role == "tool")


def test_subagents_begin_afresh_together_and_are_waited_for() -> None:
    widths = set()
    for session in sessions(0, 16):
        for place, turn in enumerate(session.turns):
            if len(turn.parents) < 2:
                continue
            asked, *ends = turn.parents
            assert turn.continues == asked
            spawned = [each for each in session.turns if each.parents == (asked,) and each.continues is None]
            assert [len(each.messages) for each in spawned] == [2] * len(ends)
            assert [message.role for message in turn.messages] == ["tool"] * len(ends)
            assert all(session.turns[end].continues is not None for end in ends)
            assert place > max(ends)
            widths.add(len(ends))
    assert widths == {1, 2, 3}


def test_tools_take_time_and_so_do_people() -> None:
    turns = [turn for session in sessions(0, 16) for turn in session.turns]
    tools = [turn.delay_ns for turn in turns if turn.messages[-1].role == "tool" and len(turn.parents) == 1]
    people = [turn.delay_ns for turn in turns if turn.messages[-1].role == "user" and turn.continues is not None]
    assert min(people) >= 500 * MS
    assert 50 * MS <= min(delay for delay in tools if delay) < max(tools) <= 4000 * MS


def test_a_seed_gives_the_same_agents_and_another_gives_others() -> None:
    assert sessions(3, 4) == sessions(3, 4)
    assert sessions(3, 4) != sessions(4, 4)
    keys = AGENT.prompts.sessions
    assert keys is not None
    assert keys.synthetic is not None
    assert [draft.id for draft in islice(synthetic(keys.synthetic, 3), 2)] == ["3-000000", "3-000001"]
