"""Each limit from both sides."""

from __future__ import annotations

import msgspec
import pytest

from bytemlperf.arrivals.delivered import ArrivalTest, tail_lateness
from bytemlperf.runs.verdicts import VERDICTS
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.load import Load
from bytemlperf_llm.metrics.overload import LatencyTrend
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.metrics.verdict import (
    Evidence,
    autocorrelation_warnings,
    exit_status_of,
    judge,
    length_warnings,
    load_warnings,
    outcome_warnings,
)
from tests.metrics.records import answered

MS = 1_000_000
OPEN = RunFacts(open_loop=True, process="constant", requested_rate=10.0)


def load(**changes):
    fields = {
        "requested_rate": 10.0,
        "planned_rate": 10.0,
        "offered_rate": 10.0,
        "gap_cv2": 0.0,
        "count_dispersion": 0.0,
        "expected_dispersion": 0.0,
        "capped_requests": 0,
        "loop_utilisation": None,
    }
    return Load(**{**fields, **changes})


def busy(share):
    return msgspec.structs.replace(OPEN, loop_utilisation=share)


def trend(*, overloaded):
    return LatencyTrend(requests=100, growth=0.25, completion_rate=8.0, excess=0.25, limit=0.18, overloaded=overloaded)


def evidence(**changes):
    fields = {
        "outcomes": {"ok": 100},
        "scheduled": 100,
        "unrecorded": 0,
        "contradictions": 0,
        "sent_requests": 100,
        "load": load(),
        "tail_lateness_ns": 1 * MS,
        "median_latency_ns": 20 * MS,
    }
    return Evidence(**{**fields, **changes})


def test_a_clean_run_is_valid_without_reasons():
    verdict = judge(OPEN, evidence())
    assert (verdict.verdict, verdict.reasons) == ("valid", [])


LEFT_WAITING = {"ok": 90, "dropped": 10}
CASES = [
    (OPEN, {"contradictions": 1}, "invalid", "do not sum"),
    (OPEN, {"outcomes": {"failed": 100}}, "invalid", "no request succeeded"),
    (OPEN, {"outcomes": {}, "scheduled": 0, "sent_requests": 0}, "invalid", "no request was scheduled"),
    (OPEN, {"outcomes": {"ok": 2}, "scheduled": 2}, "thin", "2 responses: insufficient for a median"),
    (OPEN, {"unrecorded": 5}, "valid", ""),
    (OPEN, {"unrecorded": 4, "outcomes": {"ok": 94, "dropped": 2}}, "invalid", "6 of 100 scheduled"),
    (OPEN, {"load": load(offered_rate=9.51)}, "valid", ""),
    (OPEN, {"load": load(offered_rate=9.4)}, "invalid", "could not keep up"),
    (OPEN, {"load": load(offered_rate=9.4, planned_rate=9.4)}, "invalid", "different load"),
    (OPEN, {"load": load(offered_rate=9.4), "sent_requests": 29}, "valid", ""),
    (OPEN, {"load": load(offered_rate=5.0, capped_requests=3)}, "valid", ""),
    (RunFacts(open_loop=False), {"load": load(offered_rate=5.0)}, "valid", ""),
    # a Poisson schedule of 100 may itself be off by 5 % + 3/sqrt(100)
    (OPEN, {"load": load(offered_rate=7.0, planned_rate=7.0, expected_dispersion=1.0)}, "valid", ""),
    (OPEN, {"load": load(offered_rate=6.4, planned_rate=6.4, expected_dispersion=1.0)}, "invalid", "35% off allowed"),
    (RunFacts(open_loop=True, loop_utilisation=0.5), {}, "valid", ""),
    (RunFacts(open_loop=True, loop_utilisation=0.51), {}, "client-limited", "51% busy"),
    (OPEN, {"tail_lateness_ns": 5 * MS}, "valid", ""),
    (OPEN, {"tail_lateness_ns": 6 * MS}, "client-limited", "sent late"),
    (OPEN, {"tail_lateness_ns": 25 * MS}, "client-limited", "sent late"),
    (OPEN, {"tail_lateness_ns": 26 * MS}, "invalid", "sent late"),
    (OPEN, {"tail_lateness_ns": 26 * MS, "median_latency_ns": 300 * MS}, "valid", ""),
    (OPEN, {"tail_lateness_ns": None}, "valid", ""),
    (OPEN, {"outcomes": {"ok": 95, "failed": 5}}, "valid", ""),
    (OPEN, {"outcomes": {"ok": 94, "failed": 6}}, "failing", "6 of 100 requests failed (6.0%, limit 5%)"),
    (OPEN, {"outcomes": {"ok": 50, "failed": 50}, "load": load(latency_trend=trend(overloaded=True))}, "failing", "50 of 100"),
    (OPEN, {"load": load(latency_trend=trend(overloaded=True))}, "overloaded", "completed 8 requests/s"),
    (OPEN, {"load": load(latency_trend=trend(overloaded=False))}, "valid", ""),
    (OPEN, {"load": load(latency_trend=trend(overloaded=True)), "tail_lateness_ns": 6 * MS}, "overloaded", "depend on the run's length"),
    # a saturated client may be the queue itself, a half-busy one is not
    (busy(0.95), {"load": load(latency_trend=trend(overloaded=True), loop_utilisation=0.95)}, "client-limited", "95% busy"),
    (busy(0.6), {"load": load(latency_trend=trend(overloaded=True), loop_utilisation=0.6)}, "overloaded", "completed 8 requests/s"),
    # left waiting under a cap by an overloaded system, and by something else
    (OPEN, {"outcomes": LEFT_WAITING, "load": load(latency_trend=trend(overloaded=True), capped_requests=9)}, "overloaded", ""),
    (OPEN, {"outcomes": LEFT_WAITING, "load": load(capped_requests=9)}, "invalid", "10 of 100 scheduled"),
    (OPEN, {"outcomes": {"ok": 50, "failed": 50}, "client_failures": 50}, "client-limited", "ulimit -n"),
    (OPEN, {"outcomes": {"ok": 50, "failed": 50}, "client_failures": 40}, "failing", "10 of 100 requests failed"),
    (OPEN, {"answers_without_token": 100}, "invalid", "no response carried a token"),
    (OPEN, {"answers_without_token": 99}, "valid", ""),
]


@pytest.mark.parametrize(("facts", "changes", "expected", "words"), CASES)
def test_limits(facts, changes, expected, words):
    verdict = judge(facts, evidence(**changes))
    assert verdict.verdict == expected
    assert (verdict.reasons == []) == (expected == "valid")
    assert words in " ".join(verdict.reasons)


def test_invalid_outranks_client_limited_and_both_reasons_stay():
    verdict = judge(RunFacts(open_loop=True, loop_utilisation=0.9), evidence(outcomes={"failed": 1}))
    assert verdict.verdict == "invalid"
    assert len(verdict.reasons) == 2


def test_outcome_warnings():
    assert outcome_warnings({"ok": 99, "failed": 1}, 100, 0) == []
    assert "2.0% of requests failed" in outcome_warnings({"ok": 98, "failed": 2}, 100, 0)[0]
    found = outcome_warnings({"ok": 90, "in_flight": 3, "cancelled": 4}, 100, 3)
    assert [text.split()[0] for text in found] == ["3", "stopped", "3"]


def test_load_warnings():
    poisson = RunFacts(open_loop=True, process="poisson", max_concurrency=8)
    assert load_warnings(poisson, load(count_dispersion=1.2, expected_dispersion=1.0), 1000) == []
    assert "not the target process" in load_warnings(poisson, load(count_dispersion=8.5, expected_dispersion=1.0), 1000)[0]
    assert "cap of 8" in load_warnings(poisson, load(capped_requests=4, count_dispersion=8.5, expected_dispersion=1.0), 1000)[0]


def test_autocorrelation_warnings():
    assert autocorrelation_warnings([("ttft", 100, 50)]) == []
    assert "49 independent" in autocorrelation_warnings([("ttft", 100, 49)])[0]


def test_tail_lateness_is_p99_and_at_least_the_third_largest():
    assert tail_lateness([5, 9]) is None
    assert tail_lateness([9, 1, 5]) == 1
    assert tail_lateness([*range(60), 1000, 2000]) == 59
    assert tail_lateness(range(1, 1001)) == 990


@pytest.mark.parametrize(
    ("test", "verdict", "warned"),
    [
        ((500, 0.2, 1e-5), "invalid", False),
        ((500, 0.2, 2e-4), "valid", True),  # too few to be sure
        ((500, 0.13, 1e-9), "valid", True),  # sure, and not so far off
        ((500, 0.04, 1e-9), "valid", False),  # sure, and of no effect
        ((500, 0.2, 0.02), "valid", False),
        ((500, 0.2, None), "invalid", False),
        ((500, 0.1, None), "valid", True),
        ((500, 0.02, None), "valid", False),
    ],
)
def test_delivered_arrivals(test, verdict, warned):
    gaps, distance, p_value = test
    delivered = load(arrival_test=ArrivalTest(gaps=gaps, distance=distance, p_value=p_value))
    assert judge(OPEN, evidence(load=delivered)).verdict == verdict
    assert any("target process" in text for text in load_warnings(OPEN, delivered, 500)) == warned
    capped = load(arrival_test=delivered.arrival_test, capped_requests=1)
    assert judge(OPEN, evidence(load=capped)).verdict == "valid", "under a cap the arrivals are the system's"


def test_each_verdict_has_a_status_that_scripts_can_read():
    statuses = {name: exit_status_of(name, 0, {"ok": 100}) for name in VERDICTS}
    assert {name: status for name, status in statuses.items() if status} == {"invalid": 1, "overloaded": 3, "failing": 4}


def test_a_run_whose_client_lost_more_than_a_failing_servers_share_is_no_success():
    assert exit_status_of("client-limited", 5, {"ok": 95, "failed": 5}) == 0
    assert exit_status_of("client-limited", 6, {"ok": 94, "failed": 6}) == 4


def test_answers_of_another_length_are_warned_of_with_their_share():
    assert length_warnings(1, 0, 100) == []
    (short,) = length_warnings(12, 0, 12)
    assert short.startswith("12 of 12 responses (100.0%) are more than 10% shorter than requested")
    shorter, longer = length_warnings(2, 50, 100)
    assert "2 of 100 responses (2.0%) are more than 10% shorter" in shorter
    assert "50 of 100 responses (50.0%) are more than 10% longer" in longer


@pytest.mark.parametrize(("tokens", "warned"), [(18, ""), (17, "shorter"), (22, ""), (23, "longer")])
def test_a_tenth_of_the_asked_length_is_tolerated(tokens, warned):
    records = [answered(index, index * 100, index * 100, [index * 100 + 50] * tokens, max_tokens=20) for index in range(40)]
    asked = msgspec.structs.replace(OPEN, ignore_eos=True)
    found = [text for text in summarize(records, asked).warnings if "than requested" in text]
    assert [warned in text for text in found] == ([True] if warned else [])
    assert not [text for text in summarize(records, OPEN).warnings if "than requested" in text], "an answer may end when it likes"


def test_a_ramp_is_not_held_to_the_dispersion_of_one_rate():
    """Its rate climbs: counts a window differ by more than Poisson's, as they were asked to."""
    times = [round(1000 * (index / 2) ** 0.5 * 10) for index in range(1, 600)]  # 0 to 20 requests/s
    records = [answered(index, at, at, [at + 20, at + 30]) for index, at in enumerate(times)]
    summary = summarize(records, RunFacts(open_loop=True, process="poisson", requested_rate=None))
    assert summary.load.count_dispersion > 2
    assert not [text for text in summary.warnings if "target process" in text]
    one_rate = summarize(records, RunFacts(open_loop=True, process="poisson", requested_rate=10.0))
    assert [text for text in (*one_rate.warnings, *one_rate.reasons) if "target process" in text]
