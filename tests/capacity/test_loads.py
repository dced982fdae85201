"""What a load of a search is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.capacity.loads import Loads, by_of
from bytemlperf_llm.capacity.search import Goal
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.workload.schedule import Schedule


def test_a_load_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="--by 'rats' is unknown"):
        by_of("rats")


def test_sessions_go_by_users_and_nothing_else_does() -> None:
    plan = resolve(Flags(engine="reference", scenario="chat-multiturn"))
    with pytest.raises(UserError, match="scenario 'chat-multiturn' has sessions, and --by is concurrency"):
        Loads.of(plan, "concurrency", Goal(max_requests=100))
    with pytest.raises(UserError, match="scenario 'chat' has no sessions"):
        Loads.of(resolve(Flags(engine="reference")), "sessions", Goal(max_requests=100))


def test_users_are_a_closed_loop_without_end_judged_by_turns_or_by_sessions() -> None:
    of_sessions = resolve(Flags(engine="reference", scenario="chat-multiturn"))
    of_turns = resolve(Flags(engine="reference", scenario="chat-multiturn", goodput=("ttft:100",)))
    whole, turns = (Loads.of(plan, "sessions", Goal(max_requests=100)) for plan in (of_sessions, of_turns))
    assert (whole.judged, whole.turnover, whole.requests) == ("sessions", 1.0, None)
    assert (turns.judged, turns.requests) == ("turns", None)
    assert 5.0 < turns.turnover < 6.0  # three to eight, equally often
    scenario = of_turns.with_scenario(turns.changes(16.0, 500)).load.scenario
    assert (scenario.arrival.process, scenario.arrival.max_concurrency, scenario.num_sessions) == ("closed", 16, None)
    assert Schedule(scenario, 0).describe().requests is None


def test_a_rate_of_sessions_is_poisson_with_as_many_as_have_the_turns() -> None:
    plan = resolve(Flags(engine="reference", scenario="chat-multiturn", goodput=("ttft:100",)))
    loads = Loads.of(plan, "rate", Goal(max_requests=100))
    assert (loads.by, loads.judged, loads.turnover) == ("session_rate", "turns", loads.turns)
    assert 1.4 < loads.think_s < 1.9  # 2 s before each turn but the first
    scenario = plan.with_scenario(loads.changes(2.0, 550)).load.scenario
    assert (scenario.arrival.process, scenario.arrival.rate) == ("poisson", 2.0)
    assert 550 <= (Schedule(scenario, 3).describe().requests or 0) < 800


def test_a_level_that_thinking_alone_misses_is_refused() -> None:
    plan = resolve(Flags(engine="reference", scenario="chat-multiturn", goodput=("session:5000",)))
    with pytest.raises(UserError, match=r"\d+% of the sessions miss session:5000 by their delays and think times alone"):
        Loads.of(plan, "sessions", Goal())


def test_a_file_of_sessions_has_so_many_turns(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    talk = [{"role": role, "content": "word"} for role in ("user", "assistant") * 3]
    path.write_text(f"{json.dumps({'messages': talk})}\n" * 7)
    flags = Flags(engine="reference", scenario="chat-multiturn", dataset_name="openai_messages", dataset_path=path, goodput=("ttft:9",))
    loads = Loads.of(resolve(flags), "sessions", Goal(max_requests=100))
    assert (loads.requests, loads.turnover) == (21, 3.0)


def test_a_rate_is_poisson_and_a_concurrency_is_a_closed_loop() -> None:
    plan = resolve(Flags(engine="reference"))
    arrival = plan.with_scenario(Loads.of(plan, "rate", Goal(max_requests=100)).changes(4.0, 50)).load.scenario.arrival
    assert (arrival.process, arrival.rate, arrival.max_concurrency) == ("poisson", 4.0, None)
    scenario = plan.with_scenario(Loads.of(plan, "concurrency", Goal(max_requests=100)).changes(8.0, 50)).load.scenario
    assert (scenario.arrival.process, scenario.arrival.max_concurrency, scenario.num_requests) == ("closed", 8, 58)


@pytest.mark.parametrize("time_scale", [None, 0.5])
def test_a_trace_keeps_its_times_scaled_to_the_rate(time_scale: float | None) -> None:
    plan = resolve(Flags(engine="reference", dataset_name="mooncake", time_scale=time_scale))
    loads = Loads.of(plan, "rate", Goal(max_requests=400))
    assert loads.requests == 200
    offsets = [list(Schedule(plan.with_scenario(loads.changes(rate, 200)).load.scenario, 0).offsets()) for rate in (2.0, 8.0)]
    assert 199 / (offsets[0][-1] / 1e9) == pytest.approx(2.0, rel=1e-6)
    assert [round(late / 1e9 / 4, 3) for late in offsets[0][:50]] == [round(early / 1e9, 3) for early in offsets[1][:50]]


def test_a_trace_under_a_rate_gives_its_prompts_alone() -> None:
    plan = resolve(Flags(engine="reference", dataset_name="azure", request_rate="3"))
    loads = Loads.of(plan, "rate", Goal(max_requests=50))
    assert (loads.trace_rps, loads.requests) == (None, 50)
    assert plan.with_scenario(loads.changes(3.0, 50)).load.scenario.arrival.process == "poisson"
