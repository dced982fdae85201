"""The scheduler of sessions on a virtual clock: when each turn was due by the graph, given what really happened before it."""

from __future__ import annotations

from typing import Any

import pytest

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.replay import READY_TURNS, ready_ahead
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload.schedule import PlannedSession
from bytemlperf_llm.workload.sessions.graph import Session, Turn
from engines.contract import Function, Message, ToolCall
from tests.sessions.graphs import ANSWER, BROKEN, Telling, chain, replay, turn, user
from tests.virtual import MS, Script

SLOW = Script(((10 * MS, 1), (300 * MS, 3)), reported_tokens=4)


def test_a_turn_is_due_a_delay_after_its_parent_ended() -> None:
    records, _ = replay([(chain("a", 3, 25 * MS), 0), (chain("b", 2, 5 * MS), 7 * MS)], [ANSWER])
    assert [record.planned_ns for record in records] == [0, 65 * MS, 130 * MS, 7 * MS, 52 * MS]
    assert [record.sent_ns for record in records] == [record.planned_ns for record in records]
    assert [(record.session, record.turn, record.session_turns, record.parents) for record in records] == [
        ("a", 0, 3, []),
        ("a", 1, 3, [0]),
        ("a", 2, 3, [1]),
        ("b", 0, 2, []),
        ("b", 1, 2, [0]),
    ]


def test_a_slow_answer_moves_the_next_turn_and_is_no_lateness() -> None:
    records, _ = replay([(chain("a", 2, 5 * MS), 0)], [SLOW])
    assert [record.planned_ns for record in records] == [0, 305 * MS]
    assert records[1].sent_ns == 305 * MS


def test_forks_spawns_and_joins() -> None:
    graph = Session(
        id="g",
        turns=(
            turn("root"),
            turn("fork", 0, delay_ns=10 * MS),
            turn("spawn", 0, continues=-1),
            turn("join", 0, 1, 2, delay_ns=3 * MS),
            turn("later", 0, at_ns=500 * MS),
        ),
    )
    records, engine = replay([(graph, 20 * MS)], [ANSWER, ANSWER, SLOW, ANSWER, ANSWER])
    assert [record.planned_ns for record in records] == [20 * MS, 70 * MS, 60 * MS, 363 * MS, 520 * MS]
    assert engine.prompts[1] == ["root", "recorded root", "fork"]
    assert engine.prompts[2] == ["spawn"]
    assert engine.prompts[3] == ["root", "recorded root", "join"]


def test_the_engines_own_answers_are_fed_back_on_request() -> None:
    _, recorded = replay([(chain("a", 3), 0)], [ANSWER])
    _, live = replay([(chain("a", 3), 0)], [ANSWER], answers="live")
    assert recorded.prompts[2] == ["q0", "recorded q0", "q1", "recorded q1", "q2"]
    assert live.prompts[2] == ["q0", "spoken", "q1", "spoken", "q2"]


def test_marked_reasoning_is_not_fed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Telling, "says", "<think>hm</think>\n\nyes")
    _, live = replay([(chain("a", 2), 0)], [ANSWER], answers="live")
    assert live.prompts[1] == ["q0", "yes", "q1"]


CALL = ToolCall("live", Function("look", "{}"))
RECORDED = (ToolCall("r1", Function("recorded", "")),)


def after_results(*ids: str, **fields: Any) -> Session:
    """A question, whose answer's calls have results under these ids in the next turn."""
    results = tuple(Message("tool", "42", tool_call_id=id) for id in ids)
    return Session(
        id="a", turns=(turn("q0", **fields), Turn(messages=(*results, user("q1")), max_tokens=4, answer="", parents=(0,), continues=0))
    )


@pytest.mark.parametrize(
    ("said", "session", "calls"),
    [
        ((CALL,), after_results("r1", tool_calls=RECORDED), (ToolCall("r1", CALL.function),)),
        ((CALL,), after_results("r1"), (ToolCall("r1", CALL.function),)),
        ((CALL, CALL), after_results("r1", tool_calls=RECORDED), RECORDED),
        ((), after_results("r1", tool_calls=RECORDED), RECORDED),
        ((CALL,), after_results(), ()),
    ],
)
def test_live_calls_are_fed_back_where_the_next_turn_has_their_results(
    monkeypatch: pytest.MonkeyPatch, said: tuple[ToolCall, ...], session: Session, calls: tuple[ToolCall, ...]
) -> None:
    def spoken(_engine: Telling, _payloads: list[Any], text: str) -> Message:
        return Message("assistant", text.removeprefix("hm "), said)

    monkeypatch.setattr(Telling, "spoken", spoken, raising=False)
    monkeypatch.setattr(Telling, "says", "hm yes")
    records, engine = replay([(session, 0)], [ANSWER], answers="live")
    assert engine.requests[1].messages[1] == Message("assistant", "yes", calls)
    assert records[1].reusable_tokens == records[0].prompt_tokens, "what is left out isn't a prefix"
    recorded = replay([(session, 0)], [ANSWER])[1].requests[1].messages
    assert recorded[1] == Message("assistant", "recorded q0", session.turns[0].tool_calls)


SPAWNING = Session(
    id="g",
    turns=(
        turn("root"),
        *(turn(f"{name}0", 0, continues=-1) for name in "abc"),
        *(turn(f"{name}1", 1 + place) for place, name in enumerate("abc")),
        turn("join", 0, 4, 5, 6),
    ),
)
"""A root, three subagents of two turns each, and a turn that waits for all."""


def most_in_flight(records: list[RequestRecord], subagents: list[list[int]]) -> int:
    spans = [(records[places[0]].sent_ns or 0, records[places[-1]].end_ns) for places in subagents]
    return max(sum(start <= at < end for start, end in spans) for at, _ in spans)


@pytest.mark.parametrize(("most", "waiting", "joined_ms"), [(1, 2, 40 + 3 * 80), (2, 1, 40 + 2 * 80), (3, 0, 40 + 80)])
def test_a_conversation_has_at_most_so_many_subagents_in_flight(most: int, waiting: int, joined_ms: int) -> None:
    session, count = SPAWNING.with_most_subagents(most)
    records, _ = replay([(session, 0)], [ANSWER])
    assert count == waiting
    assert most_in_flight(records, [[1, 4], [2, 5], [3, 6]]) == most
    assert records[7].planned_ns == joined_ms * MS


def test_a_failed_subagent_makes_room_for_the_next() -> None:
    session, _ = SPAWNING.with_most_subagents(1)
    records, _ = replay([(session, 0)], [ANSWER, BROKEN, *[ANSWER] * 6])
    assert [record.outcome for record in records] == ["ok", "failed", "ok", "ok", "dropped", "ok", "ok", "dropped"]
    assert records[2].planned_ns == records[4].end_ns == 40 * MS
    assert records[2].parents == [0, 4]


def test_a_subagents_own_subagents_never_wait_for_it() -> None:
    graph = Session(
        id="g",
        turns=(turn("root"), turn("a0", 0, continues=-1), turn("nested", 1, continues=-1), turn("a1", 1, 2), turn("b0", 0, continues=-1)),
    )
    session, count = graph.with_most_subagents(1)
    assert count == 1
    assert [each.after for each in session.turns] == [(), (), (), (), (3,)]
    records, _ = replay([(session, 0)], [ANSWER])
    assert all(record.outcome == "ok" for record in records)


def test_turns_below_a_failed_one_are_dropped_and_no_other() -> None:
    graph = Session(id="g", turns=(turn("a"), turn("b", 0), turn("c", 0), turn("d", 1), turn("e", 2, 3), turn("f", 2)))
    records, engine = replay([(graph, 0), (chain("h", 2), 0)], [ANSWER, BROKEN, SLOW, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER])
    assert [record.outcome for record in records] == ["ok", "failed", "ok", "dropped", "dropped", "ok", "ok", "ok"]
    assert [(record.error_detail, record.end_ns, record.planned_ns) for record in records[3:5]] == [("parent failed", 40 * MS, None)] * 2
    assert sorted(engine.prompts) == [0, 1, 2, 5, 6, 7]


def test_so_many_users_each_begin_a_session_when_theirs_has_ended() -> None:
    sessions = [(chain("a", 2, 10 * MS), None), (chain("b", 1), None), (chain("c", 1), None), (chain("d", 1), None)]
    records, _ = replay(sessions, [ANSWER], users=2)
    assert [(record.session, record.planned_ns) for record in records] == [
        ("a", 0),
        ("a", 50 * MS),
        ("b", 0),
        ("c", 40 * MS),
        ("d", 80 * MS),
    ]


def test_a_closed_loop_begins_no_session_after_its_time_and_ends_those_begun() -> None:
    records, _ = replay([(chain(str(i), 2, 10 * MS), None) for i in range(9)], [ANSWER], users=1, end_ns=100 * MS)
    assert [record.planned_ns for record in records] == [0, 50 * MS, 90 * MS, 140 * MS]


def test_a_stop_sends_nothing_more_and_what_is_in_flight_may_finish() -> None:
    records, _ = replay([(chain("a", 3, 10 * MS), 0), (chain("b", 2), 200 * MS)], [ANSWER], stop_ns=70 * MS)
    assert [(record.session, record.turn, record.outcome) for record in records] == [("a", 0, "ok"), ("a", 1, "ok")]


def test_a_timeout_fails_the_turn_and_drops_what_is_below() -> None:
    hanging = Script(((10 * MS, 1),), hang=True)
    records, _ = replay([(chain("a", 2), 0)], [hanging], timeouts=Timeouts(idle_ns=NS_PER_S))
    assert [(record.outcome, record.error_class) for record in records] == [("failed", "idle_timeout"), ("dropped", None)]


def test_a_cap_on_requests_in_flight_queues_turns_and_their_wait_counts() -> None:
    records, _ = replay([(chain("a", 2), 0), (chain("b", 1), 0)], [ANSWER], slots=1)
    assert [(record.planned_ns, record.sent_ns) for record in records] == [(0, 0), (40 * MS, 80 * MS), (0, 40 * MS)]


def test_reusable_tokens_are_the_parents_prompt_and_with_live_answers_its_answer_too() -> None:
    """`q0` is a word, and 4 tokens were answered; the recorded answer is two words."""
    recorded, _ = replay([(chain("a", 3), 0)], [ANSWER])
    live, _ = replay([(chain("a", 3), 0)], [ANSWER], answers="live")
    assert [(record.prompt_tokens, record.reusable_tokens) for record in recorded] == [(1, 0), (4, 1), (7, 4)]
    assert [(record.prompt_tokens, record.reusable_tokens) for record in live] == [(1, 0), (3, 5), (5, 7)]


def test_a_thousand_sessions_are_in_flight_at_once() -> None:
    records, _ = replay([(chain(str(i), 2, NS_PER_S), i) for i in range(1_000)], [ANSWER])
    assert len(records) == 2_000
    assert all(record.outcome == "ok" for record in records)
    assert {record.planned_ns for record in records[1::2]} == {NS_PER_S + 40 * MS + i for i in range(1_000)}


def test_sessions_are_made_before_the_first_is_due_and_later_ones_on_the_way() -> None:
    made = 0

    def planned() -> Any:
        nonlocal made
        for number in range(4 * READY_TURNS):
            made += 1
            yield PlannedSession(chain(f"s{number}", 10), number * 10, None)

    ready = ready_ahead(planned())
    assert made == READY_TURNS // 10
    assert [next(ready).first_index for _ in range(made + 1)] == [number * 10 for number in range(READY_TURNS // 10 + 1)]
    assert made == READY_TURNS // 10 + 1
    assert [each.session.id for each in ready_ahead(iter([PlannedSession(chain("one", 2), 0, 0)]))] == ["one"]
