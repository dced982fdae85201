"""What the summary says of sessions, against times that are known to the nanosecond."""

from __future__ import annotations

from bytemlperf_llm.metrics.facts import RunFacts, SessionFacts, SloMs
from bytemlperf_llm.metrics.session_tally import Path, SessionTally
from bytemlperf_llm.metrics.sessions import Sessions
from bytemlperf_llm.metrics.summary import Summary, summarize
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload.sessions.graph import Session
from tests.sessions.graphs import ANSWER, BROKEN, chain, replay, turn
from tests.virtual import MS, Script

LONG = Script(((10 * MS, 1), (100 * MS, 3)), reported_tokens=4)


def summary_of(records: list[RequestRecord], *, open_loop: bool = True, **facts: object) -> tuple[Summary, Sessions]:
    about = SessionFacts(answers="recorded")
    summary = summarize(records, RunFacts(open_loop=open_loop, scheduled_requests=len(records), sessions=about, **facts))  # type: ignore[arg-type]
    assert summary.sessions is not None
    return summary, summary.sessions


def test_the_critical_path_of_a_fork_and_join_sums_to_the_whole_time() -> None:
    """root 0–40; a 50–90 (10 ms of tool), b 40–140, join due at 145 (5 ms of tool), held back to 200 by a cap's queue, ends at 240."""
    graph = Session(id="g", turns=(turn("root"), turn("a", 0, delay_ns=10 * MS), turn("b", 0), turn("join", 1, 2, delay_ns=5 * MS)))
    records, _ = replay([(graph, 0)], [ANSWER, ANSWER, LONG, ANSWER])
    held = records[3]
    held.sent_ns, held.end_ns = 200 * MS, 240 * MS
    tally = SessionTally()
    tally.add_all(reversed(records))
    assert tally.paths() == [Path(0, 240 * MS, model_ns=180 * MS, tool_ns=5 * MS, queue_ns=55 * MS)]
    _, sessions = summary_of(records)
    assert sessions.critical_path == {"model": 180 / 240, "tool": 5 / 240, "queue": 55 / 240}
    assert sessions.metrics["session_time"].mean == 240 * MS


def test_sessions_turns_and_rates() -> None:
    records, _ = replay([(chain(str(i), 2, 10 * MS), i * 50 * MS) for i in range(11)], [ANSWER])
    _, sessions = summary_of(records)
    assert (sessions.sessions, sessions.turns, sessions.dropped_turns) == (11, 22, 0)
    assert sessions.outcomes == {"ok": 11, "failed": 0, "cut": 0}
    assert sessions.offered_rate == 20.0
    assert sessions.metrics["session_time"].percentiles["50"] == 90 * MS
    # the schedule's last start, at 500 ms, closes the window: nine sessions of 90 ms have ended
    assert sessions.completed_per_s == 18.0


def test_the_window_of_a_closed_loop_ends_when_the_first_user_has_no_more_session() -> None:
    sessions = [(chain("a", 1), None), (chain("b", 5), None), (chain("c", 1), None), (chain("d", 9), None)]
    records, _ = replay(sessions, [ANSWER], users=2)
    summary, said = summary_of(records, open_loop=False)
    # a 0–40, c 40–80, d 80–440; b 0–200: its user finds no other session then
    assert (summary.steady_state.window.start_ns, summary.steady_state.window.end_ns) == (0, 200 * MS)
    assert summary.steady_state.ramp_down_ns == 240 * MS
    assert said.completed_per_s == 15.0
    assert summary.rates["request_throughput"].value == (1 + 5 + 1 + 3) / 0.2


def test_a_failed_parent_fails_its_session_and_is_no_lost_load() -> None:
    records, _ = replay([(chain("a", 3), 0), (chain("b", 3), 0)], [BROKEN, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER])
    summary, sessions = summary_of(records, slo_ms=SloMs(session=120.0))
    assert sessions.outcomes == {"ok": 1, "failed": 1, "cut": 0}
    assert sessions.dropped_turns == 2
    assert summary.outcomes["dropped"] == 2
    assert summary.verdict == "failing"
    assert sessions.goodput is not None
    assert (sessions.goodput.good_sessions, sessions.goodput.share) == (1, 0.5)
    assert summary.goodput is None


def test_goodput_is_of_sessions_within_the_limit() -> None:
    records, _ = replay([(chain("a", 2), 0), (chain("b", 3), 0)], [ANSWER])
    _, sessions = summary_of(records, slo_ms=SloMs(session=80.0))
    assert sessions.goodput is not None
    assert (sessions.goodput.good_sessions, sessions.goodput.share) == (1, 0.5)


def test_a_session_that_the_run_did_not_finish_is_cut() -> None:
    records, _ = replay([(chain("a", 3, 10 * MS), 0)], [ANSWER], stop_ns=45 * MS)
    _, sessions = summary_of(records)
    assert sessions.outcomes == {"ok": 0, "failed": 0, "cut": 1}
    assert sessions.metrics == {}


def test_single_requests_have_no_sessions() -> None:
    records, _ = replay([(chain("a", 1), 0)], [ANSWER])
    assert summarize(records, RunFacts(open_loop=True, scheduled_requests=1)).sessions is None
