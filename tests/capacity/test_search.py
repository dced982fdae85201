"""The search on engines of known capacity, on a virtual clock: `benchmarks/capacity.py` with few seeds."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from benchmarks.capacity import ENGINES, guidellm, ours
from bytemlperf_llm.capacity.curve import Point, curve_of
from bytemlperf_llm.capacity.judge import Errors, Look, Outcome
from bytemlperf_llm.capacity.probe import Plan, Probe, Purpose, is_enough
from bytemlperf_llm.capacity.search import SPENT_ON_HOLDING, Goal, Search


def look(missed: float, outcome: Outcome = Outcome.UNRESOLVED, requests: int = 1_000, worth: float = 500.0) -> Look:
    return Look(outcome, requests, requests, missed, worth, steady=True, overloaded=False)


def searching(*probes: tuple[float, float, Outcome], goal: Goal | None = None) -> Search:
    search = Search(goal or Goal(), 1.0)
    for rate, missed, outcome in probes:
        search.tell(Probe(rate, look(missed, outcome), Purpose.RANGE))
    return search


@pytest.mark.parametrize(("name", "truth", "seeds"), [("cliff", 80.0, 12), ("M/D/1", 76.5, 8), ("slow drift", 86.4, 6)])
def test_the_interval_holds_the_truth(name: str, truth: float, seeds: int) -> None:
    answers = [ours(ENGINES[name], seed, max_requests=60_000) for seed in range(seeds)]
    assert all(0 < answer.holds <= truth <= answer.fails < math.inf for answer in answers)
    assert all(answer.requests <= 60_000 for answer in answers)


def test_on_a_cliff_it_needs_fewer_requests_than_the_control() -> None:
    """Where every rate is plainly on one side, bisecting by point estimates is right, too."""
    answers = [ours(ENGINES["cliff"], seed) for seed in range(41)]
    control = guidellm(ENGINES["cliff"], 0, 500)
    assert sorted(answer.requests for answer in answers)[20] < control.requests
    assert control.holds <= 80.0 <= control.fails


def test_the_control_names_too_much() -> None:
    """What the search is held against: bisecting by point estimates, 500 requests a probe, on M/M/1."""
    above = [guidellm(ENGINES["M/M/1"], seed, 500).holds > 80.03 for seed in range(60)]
    assert sum(above) > 20


def test_the_range_is_found_upwards_and_downwards() -> None:
    assert Search(Goal(), 4.0).plan().load == 4.0  # type: ignore[union-attr]
    up, down = searching((4.0, 0.0, Outcome.HOLDS)).plan(), searching((4.0, 0.9, Outcome.FAILS)).plan()
    assert up is not None
    assert up.load == 16.0
    assert down is not None
    assert down.load == 1.0


def test_the_range_is_found_in_smaller_steps_where_a_higher_load_needs_more_requests() -> None:
    plan = searching((4.0, 0.0, Outcome.HOLDS), goal=Goal(whole=True)).plan()
    assert plan is not None
    assert plan.load == 8.0


def test_a_probe_for_the_place_ends_once_its_side_is_clear() -> None:
    plan = Plan(10.0, 134, 14_880, Errors(1e-6, 1e-6), Purpose.HALVE)
    assert is_enough(plan, look(0.01, requests=200, worth=180.0), 0.95)
    assert not is_enough(plan, look(0.03, requests=200, worth=180.0), 0.95)
    assert not is_enough(plan, replace(look(0.01, requests=200, worth=180.0), steady=False), 0.95)


def test_the_answer_is_the_highest_rate_that_holds_below_the_lowest_that_fails() -> None:
    search = searching((4.0, 0.0, Outcome.HOLDS), (8.0, 0.01, Outcome.HOLDS), (16.0, 0.9, Outcome.FAILS), (12.0, 0.2, Outcome.FAILS))
    assert (search.holds_at, search.fails_at) == (8.0, 12.0)
    search.tell(Probe(7.0, look(0.2, Outcome.FAILS), Purpose.LOW))  # a confirming run that fails takes its answer back
    assert (search.holds_at, search.fails_at) == (4.0, 7.0)


def test_what_the_client_limits_resolves_nothing_and_ends_the_search() -> None:
    search = searching((4.0, 0.0, Outcome.HOLDS))
    search.tell(Probe(8.0, look(0.9, Outcome.FAILS), Purpose.RANGE, client_limited="sent 6 of 8 requests/s"))
    assert search.fails_at is None
    plan = search.plan()
    assert plan is not None
    assert 4.0 < plan.load < 8.0
    search.tell(Probe(plan.load, look(0.0, Outcome.HOLDS), Purpose.RANGE))
    assert search.stopped_because() == "client"
    assert search.plan() is None


def test_under_the_clients_limit_a_long_probe_is_to_hold_further_down_each_time() -> None:
    search = searching((2.0, 0.0, Outcome.HOLDS), (4.0, 0.0, Outcome.UNRESOLVED))
    search.tell(Probe(8.0, look(0.0, Outcome.HOLDS), Purpose.RANGE, client_limited="late"))
    loads = []
    while (plan := search.plan()) is not None:
        assert plan.purpose is Purpose.LOW
        assert plan.limit > search.goal.needed
        loads.append(plan.load)
        search.tell(Probe(plan.load, look(0.0), plan.purpose, errors=plan.errors))
    assert loads == [4.0, pytest.approx(4 / 1.4, rel=1e-3), pytest.approx(4 / 1.96, rel=1e-3)]
    assert search.stopped_because() == "client"


def test_it_ends_when_the_interval_is_narrow_or_the_requests_are_spent() -> None:
    narrow = searching((10.0, 0.0, Outcome.HOLDS), (10.4, 0.2, Outcome.FAILS))
    assert narrow.stopped_because() == "within"
    spent = searching((10.0, 0.0, Outcome.HOLDS), (20.0, 0.2, Outcome.FAILS), goal=Goal(max_requests=2_100))
    assert spent.stopped_because() == "requests"


def test_with_few_requests_left_something_is_to_hold_first() -> None:
    goal = Goal(max_requests=6_000)
    probes = ((10.0, 0.01, Outcome.UNRESOLVED), (40.0, 0.02, Outcome.UNRESOLVED), (160.0, 0.9, Outcome.FAILS))
    plan = searching(*probes, goal=goal).plan()
    assert plan is not None
    assert (plan.load, plan.purpose) == (40.0, Purpose.LOW)
    search = searching(*probes, goal=goal)
    search.tell(Probe(40.0, look(0.05, requests=500), Purpose.LOW))
    plan = search.plan()
    assert plan is not None
    assert plan.load < 40.0


def test_the_errors_of_all_probes_stay_within_the_confidence() -> None:
    search, holds, fails = Search(Goal(), 1.0), 0.0, 0.0
    for place in range(60):
        for purpose in Purpose:
            errors = search._errors(purpose)
            holds, fails = holds + errors.holds, fails + errors.fails
            search.tell(Probe(1.0 + place, look(0.05), purpose, errors=errors))
    assert max(holds, fails) == pytest.approx(0.025)


def test_a_probe_that_is_resolved_gives_its_error_back_on_that_side() -> None:
    search = Search(Goal(), 1.0)
    first = search._errors(Purpose.LOW)
    search.tell(Probe(1.0, look(0.0, Outcome.HOLDS), Purpose.LOW, errors=first))
    again = search._errors(Purpose.LOW)
    assert again.holds == first.holds  # true or not: an error that was made is made once
    assert again.fails < first.fails
    search.tell(Probe(2.0, look(0.05), Purpose.LOW, errors=again))
    assert search._errors(Purpose.LOW).holds == pytest.approx(first.holds * (1 - SPENT_ON_HOLDING[Purpose.LOW]))
    search.tell(Probe(4.0, look(0.05), Purpose.LOW, client_limited="late", errors=search._errors(Purpose.LOW)))
    assert search._errors(Purpose.LOW).holds == pytest.approx(first.holds * (1 - SPENT_ON_HOLDING[Purpose.LOW]))


def test_the_capacity_is_estimated_between_probes_and_never_beyond_what_is_clear() -> None:
    def points(*shares: tuple[float, float]) -> list[Point]:
        return [Probe(rate, look(missed), Purpose.RANGE).point for rate, missed in shares]

    curve = curve_of(points((70, 0.01), (80, 0.05), (90, 0.25)), 0.05)
    assert curve is not None
    assert math.exp(curve.at) == pytest.approx(80, rel=0.03)
    assert curve_of(points((70, 0.01)), 0.05) is None
    cliff = curve_of(points((10, 0.01), (20, 0.012), (79, 0.009), (84, 0.6)), 0.05)
    assert cliff is not None
    assert 79 <= math.exp(cliff.at) <= 84
    shares = points((10, 0.01), (60, 0.0), (84, 0.6), (90, 0.9))
    unsteady = curve_of([*shares[:2], replace(shares[2], steady=False), shares[3]], 0.05)
    assert unsteady is not None
    assert unsteady.error > cliff.error  # one that isn't steady bounds nothing


def test_a_probe_that_cannot_be_resolved_any_more_ends() -> None:
    plan = Plan(10.0, 200, 10_000, Errors(0.01, 1e-5), Purpose.LOW)
    assert is_enough(plan, look(0.09, requests=2_000), 0.95)
    assert not is_enough(plan, look(0.03, requests=2_000), 0.95)
    assert is_enough(plan, look(0.049, requests=6_000), 0.95)
    assert is_enough(plan, look(0.03, requests=10_000), 0.95)


def test_an_overload_is_over_the_limit_however_many_were_good_before_it_grew() -> None:
    search = searching((4.0, 0.0, Outcome.HOLDS))
    search.tell(Probe(8.0, Look(Outcome.FAILS, 240, 216, 0.01, 1.0, steady=False, overloaded=True), Purpose.RANGE))
    plan = search.plan()
    assert plan is not None
    assert 4.0 < plan.load < 8.0


def test_whole_loads_stay_whole_and_an_interval_of_two_neighbours_is_narrow() -> None:
    goal = Goal(whole=True)
    assert searching((1.0, 0.5, Outcome.FAILS), goal=goal).stopped_because() == "nothing holds"
    assert searching((2.0, 0.0, Outcome.HOLDS), (3.0, 0.5, Outcome.FAILS), goal=goal).stopped_because() == "within"
    search = searching((8.0, 0.01, Outcome.HOLDS), (16.0, 0.4, Outcome.FAILS), goal=goal)
    plan = search.plan()
    assert plan is not None
    assert plan.load == int(plan.load)
    assert 8 < plan.load < 16
    assert plan.first >= 10 * plan.load
    assert plan.limit >= 40 * plan.load
