"""What a load of a search is made of."""

from __future__ import annotations

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.capacity.loads import Loads, by_of
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.workload.schedule import Schedule


def test_sessions_are_named_as_not_available() -> None:
    with pytest.raises(UserError, match="--by sessions is not available"):
        by_of("sessions")
    with pytest.raises(UserError, match="--by 'rats' is unknown"):
        by_of("rats")


def test_a_scenario_of_sessions_is_refused_in_a_line() -> None:
    plan = resolve(Flags(engine="reference", scenario="chat-multiturn"))
    with pytest.raises(UserError, match="capacity of sessions, which scenario 'chat-multiturn' has"):
        Loads.of(plan, "rate", 100)


def test_a_rate_is_poisson_and_a_concurrency_is_a_closed_loop() -> None:
    plan = resolve(Flags(engine="reference"))
    arrival = plan.with_scenario(Loads.of(plan, "rate", 100).changes(4.0, 50)).load.scenario.arrival
    assert (arrival.process, arrival.rate, arrival.max_concurrency) == ("poisson", 4.0, None)
    scenario = plan.with_scenario(Loads.of(plan, "concurrency", 100).changes(8.0, 50)).load.scenario
    assert (scenario.arrival.process, scenario.arrival.max_concurrency, scenario.num_requests) == ("closed", 8, 58)


@pytest.mark.parametrize("time_scale", [None, 0.5])
def test_a_trace_keeps_its_times_scaled_to_the_rate(time_scale: float | None) -> None:
    plan = resolve(Flags(engine="reference", dataset_name="mooncake", time_scale=time_scale))
    loads = Loads.of(plan, "rate", 400)
    assert loads.requests == 200
    offsets = [list(Schedule(plan.with_scenario(loads.changes(rate, 200)).load.scenario, 0).offsets()) for rate in (2.0, 8.0)]
    assert 199 / (offsets[0][-1] / 1e9) == pytest.approx(2.0, rel=1e-6)
    assert [round(late / 1e9 / 4, 3) for late in offsets[0][:50]] == [round(early / 1e9, 3) for early in offsets[1][:50]]


def test_a_trace_under_a_rate_gives_its_prompts_alone() -> None:
    plan = resolve(Flags(engine="reference", dataset_name="azure", request_rate="3"))
    loads = Loads.of(plan, "rate", 50)
    assert (loads.trace_rps, loads.requests) == (None, 50)
    assert plan.with_scenario(loads.changes(3.0, 50)).load.scenario.arrival.process == "poisson"
