"""A run as Perfetto opens it, read back by a parser of its own: counts, order, lanes, clock, flows, thinning, bad input."""

from __future__ import annotations

import random
from itertools import pairwise

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf.export import timeline
from bytemlperf.export.perfetto import NAME, export_timeline
from bytemlperf.export.timeline import Amounts, Reading, Slice, Timeline, lanes_of
from bytemlperf_llm.export.story import stages_of
from bytemlperf_llm.kind import KIND
from engines.contract import Stages
from tests.export.trace_reader import MONOTONIC, REALTIME, Trace
from tests.metrics.records import MS, answered, failed
from tests.metrics.test_faults import outage_run
from tests.metrics.test_stalls import streams
from tests.report.made import llm_records, llm_run_json, write_run

pytest.importorskip("perfetto", reason="Perfetto's protobufs are not installed (extra perfetto)")

ORIGIN_NS, UNIX_NS = 77_000_000_000_123, 1_795_000_000_000_000_000
CLOCK = {"clock_origin_ns": ORIGIN_NS, "clock_origin_unix_ns": UNIX_NS}
ENGINE = Stages(queued_ns=2 * MS, scheduled_ns=5 * MS, first_token_ns=9 * MS, last_token_ns=19 * MS)


def drawn(folder, records, **changes):
    """The trace of these records, and what the command line says."""
    said = export_timeline(write_run(folder, llm_run_json(**{**CLOCK, **changes}), records))
    return Trace(folder / NAME), said


def requests_in(trace):
    return [one for one in trace.slices if one.category == "request"]


def test_every_request_is_a_slice_at_its_time_on_the_machines_clock(tmp_path):
    records = llm_records(300)
    trace, said = drawn(tmp_path / "run", records)
    assert "300 of 300 requests" in said
    slices = {one.name: one for one in requests_in(trace)}
    assert len(slices) == len(requests_in(trace)) == 300
    for record in records:
        one = slices[record.id]
        assert (one.start_ns, one.end_ns) == (ORIGIN_NS + record.planned_ns, ORIGIN_NS + record.end_ns)
        assert one.track == ("workers", "worker 0")
        assert one.facts["index"] == record.index
    assert trace.primary_clock == MONOTONIC
    assert trace.clocks == {MONOTONIC: ORIGIN_NS, REALTIME: UNIX_NS}
    assert trace.in_order


def test_stages_lie_within_their_request_and_say_where_its_time_went(tmp_path):
    record = answered(0, 0, 1, [10, 20], stages=ENGINE, end_ns=21 * MS)
    trace, _ = drawn(tmp_path / "run", [record])
    whole, *stages = [one for one in trace.slices if one.track[0] == "workers"]
    assert (whole.start_ns, whole.end_ns, whole.depth) == (ORIGIN_NS, ORIGIN_NS + 21 * MS, 0)
    assert [(one.name, (one.start_ns - ORIGIN_NS) / MS, (one.end_ns - ORIGIN_NS) / MS, one.depth) for one in stages] == [
        ("waiting to be sent", 0, 1, 1),
        ("reaching the engine", 1, 2, 1),
        ("engine queue", 2, 5, 1),
        ("prefill", 5, 9, 1),
        ("decode", 9, 19, 1),
        ("delivery", 19, 20, 1),
    ]


def test_stages_are_those_that_are_known():
    def named(record):
        return [name for name, _, _ in stages_of(record, record.chunk_ns)]

    assert named(answered(0, 0, 1, [10, 20])) == ["waiting to be sent", "to the first token", "decode"]
    assert named(answered(0, None, 1, [10])) == ["waiting to be sent", "to the first token", "decode"]
    assert named(failed(0, 0, 9)) == ["waiting to be sent"]
    thought = answered(0, 0, 1, [10, 15, 20], answer_ns=15 * MS)
    assert named(thought) == ["waiting to be sent", "to the first token", "reasoning", "decode"]
    only = Stages(scheduled_ns=5 * MS)
    assert named(answered(0, 0, 1, [10, 20], stages=only)) == ["waiting to be sent", "engine queue", "delivery"]


def test_stamps_that_contradict_each_other_still_nest(tmp_path):
    wild = Stages(queued_ns=50 * MS, scheduled_ns=-3 * MS, first_token_ns=9 * MS, last_token_ns=4 * MS)
    records = [answered(0, 5, 1, [10, 20], stages=wild), answered(1, 30, 31, [12, 8]), failed(2, 50, 40)]
    trace, _ = drawn(tmp_path / "run", records)
    for whole in requests_in(trace):
        inside = [one for one in trace.slices if one.lane == whole.lane and whole.start_ns <= one.start_ns < whole.end_ns]
        assert all(one.end_ns <= whole.end_ns for one in inside)


def test_requests_that_overlap_are_in_lanes_of_one_track_and_never_nest(tmp_path):
    records = [answered(index, index * 2, index * 2 + 0.1, [index * 2 + 5, index * 2 + 9]) for index in range(40)]
    trace, _ = drawn(tmp_path / "run", records)
    requests = requests_in(trace)
    assert {one.depth for one in requests} == {0}
    lanes = {one.lane for one in requests}
    assert len(lanes) == 5, "as many as were ever in flight at once"
    assert {trace.tracks[lane][0][1:] for lane in lanes} == {("workers", "worker 0")}


def test_lanes_are_reused_and_hold_one_slice_at_a_time():
    draw = random.Random(3)
    slices = []
    for place in range(500):
        start = draw.randrange(10_000)
        slices.append(Slice(noun="x", track=(f"t{place % 3}",), name=str(place), start_ns=start, end_ns=start + draw.randrange(300)))
    by_lane = {}
    for lane, one in lanes_of(Timeline(slices).slices):
        by_lane.setdefault(lane, []).append(one)
    for lane in by_lane.values():
        assert len({one.track for one in lane}) == 1
        assert all(earlier.end_ns <= later.start_ns for earlier, later in pairwise(lane))
    mine = [one for one in slices if one.track == ("t0",)]
    most = max(sum(one.start_ns <= at < one.end_ns for one in mine) for at in {one.start_ns for one in mine})
    assert sum(lane[0].track == ("t0",) for lane in by_lane.values()) == most


def turn(session, number, start_ms, parents, index, **changes):
    return answered(index, start_ms, start_ms, [start_ms + 3], session=session, turn=number, parents=parents, session_turns=4, **changes)


def test_a_session_has_a_track_and_its_turns_flows(tmp_path):
    records = [turn("s1", 0, 0, [], 0), turn("s1", 1, 10, [0], 1), turn("s1", 2, 10, [0], 2), turn("s1", 3, 20, [1, 2], 3)]
    records.append(turn("s2", 0, 1, [], 4))
    trace, said = drawn(tmp_path / "run", records)
    assert "5 of 5 requests, 5 of 5 turns" in said
    turns = {(one.track, one.name): one for one in trace.slices if one.category == "turn"}
    assert {track for track, _ in turns} == {("sessions", "s1"), ("sessions", "s2")}
    start = {flow: name for (_, name), one in turns.items() for flow in one.leaving}
    end = {flow: name for (_, name), one in turns.items() for flow in one.arriving}
    edges = {("turn 0", "turn 1"), ("turn 0", "turn 2"), ("turn 1", "turn 3"), ("turn 2", "turn 3")}
    assert {(start[flow], end[flow]) for flow in start} == edges
    assert len(start) == len(end) == 4


def test_counters_are_of_all_requests(tmp_path):
    records = llm_records(400)
    trace, _ = drawn(tmp_path / "run", records)
    flights = trace.counters["requests in flight"]
    for at_ns, level in flights:
        moment = at_ns - ORIGIN_NS
        assert level == sum(record.sent_ns < moment <= record.end_ns for record in records)
    assert flights[-1][1] == 0
    rates = trace.counters["output tokens/s"]
    tokens = sum(value * (later - at_ns) for (at_ns, value), (later, _) in pairwise(rates)) / 1e9
    assert round(tokens) == sum(record.output_tokens for record in records)
    assert trace.descriptions[(trace.tracks[1][0][0], "counters", "output tokens/s")] == "means of 134.2 ms"


def test_the_engines_gauges_are_counters(tmp_path):
    folder = write_run(tmp_path / "run", llm_run_json(**CLOCK), llm_records(50))
    (folder / "gauges.jsonl").write_text('{"at_ns": 5, "gauges": {"running": 3.0}}\n{"at_ns": 9, "gauges": {"running": 1.5}}\n')
    export_timeline(folder)
    assert Trace(folder / NAME).counters["engine running"] == [(ORIGIN_NS + 5, 3.0), (ORIGIN_NS + 9, 1.5)]


def test_errors_warm_up_steady_state_and_verdict_are_marked(tmp_path):
    run = llm_run_json(**CLOCK)
    run["config"]["scenario"]["warmup_requests"] = 4
    folder = write_run(tmp_path / "run", run, llm_records(600))
    export_timeline(folder)
    trace, summary = Trace(folder / NAME), msgspec.json.decode((folder / "summary.json").read_bytes())
    errors = [(name, facts) for track, name, _, facts in trace.instants if track == ("errors",)]
    assert errors == [("http_5xx", {"request": f"r{index}"}) for index in range(49, 600, 50)]
    marks = {name: facts for track, name, _, facts in trace.instants if track == ("run",)}
    assert "600 of 600 requests" in marks
    assert "4 warm-up requests, not measured, ended before this" in marks
    assert list(marks)[-1] == f"verdict: {summary['verdict']}"
    steady = next(one for one in trace.slices if one.name.startswith("steady state"))
    window = summary["steady_state"]["window"]
    assert (steady.start_ns - ORIGIN_NS, steady.end_ns - ORIGIN_NS) == (window["start_ns"], window["end_ns"])


def test_moments_at_which_the_server_stopped_are_marked(tmp_path):
    trace, _ = drawn(tmp_path / "run", streams(freezes=[(1_000, 1_500)]))
    marks = [(name, (at_ns - ORIGIN_NS) / MS) for _, name, at_ns, _ in trace.instants if name.startswith("stall")]
    assert [name for name, _ in marks] == ["stall: 10 of 10 open streams"]
    assert 1_000 < marks[0][1] < 2_500


def test_faults_are_stretches_with_what_they_cost(tmp_path):
    trace, _ = drawn(tmp_path / "run", outage_run(extra_s=1.0))
    (outage,) = [one for one in trace.slices if one.name == "outage"]
    assert ((outage.start_ns - ORIGIN_NS) / MS, (outage.end_ns - ORIGIN_NS) / MS) == (20_010, 26_100)
    assert outage.facts["lost"] == 5


def test_marks_and_counters_stand_above_the_requests(tmp_path):
    trace, _ = drawn(tmp_path / "run", llm_records(20))
    first = {}
    for path, rank in trace.tracks.values():
        first.setdefault(path[1:2], rank)
    order = [name for (name,) in sorted((key for key in first if key), key=first.__getitem__)]
    assert order == ["run", "counters", "stretches", "workers"]


def test_thinning_keeps_failures_and_whole_sessions_and_says_what_it_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(timeline, "MOST_BYTES", 30_000)
    monkeypatch.setattr(timeline, "MOST_FAILED", 5)
    records = [turn(f"s{index // 4}", index % 4, index * 5, [index % 4 - 1] if index % 4 else [], index) for index in range(2_000)]
    records[1_000:1_004] = [failed(index, index * 5, index * 5 + 2, session="s250", turn=index % 4) for index in range(1_000, 1_004)]
    trace, said = drawn(tmp_path / "run", records)
    assert "of 2,000 requests" in said
    assert "one in" in said
    assert "the first 5 that failed" in said
    assert (tmp_path / "run" / NAME).stat().st_size < 80_000
    kept = requests_in(trace)
    assert 20 < len(kept) < 200
    assert {f"r{index}" for index in range(1_000, 1_004)} <= {one.name for one in kept}
    counts = {}
    for one in kept:
        if "failed" not in one.facts:
            counts[one.facts["session"]] = counts.get(one.facts["session"], 0) + 1
    assert set(counts.values()) == {4}
    assert any(said.partition("(")[2].startswith(name) for track, name, _, _ in trace.instants if track == ("run",))
    assert max(level for _, level in trace.counters["requests in flight"]) == 1


def test_thinned_requests_are_evenly_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(timeline, "MOST_BYTES", 20_000)
    trace, _ = drawn(tmp_path / "run", llm_records(1_000, stages=False)[:49])
    assert len(requests_in(trace)) == 49
    records = [answered(index, index, index, [index + 1]) for index in range(1_000)]
    trace, _ = drawn(tmp_path / "more", records)
    indexes = [one.facts["index"] for one in requests_in(trace)]
    assert len({later - earlier for earlier, later in pairwise(indexes)}) == 1


def test_the_estimated_size_of_a_slice_is_no_less_than_its_own(tmp_path):
    records = [
        answered(index, 0, 1, [10, 20], stages=ENGINE, session=f"session {index}", finish_reason="length", error_detail="é\u202e" * 60)
        for index in range(300)
    ]
    folder = write_run(tmp_path / "run", llm_run_json(**CLOCK), records)
    export_timeline(folder)
    kept = Timeline(KIND.story(CLOCK, {}, records).events)
    assert (folder / NAME).stat().st_size < sum(one.weight for one in kept.slices) + 300 * 80 + 4_000


def test_long_counters_are_summed_in_longer_stretches_and_lose_nothing():
    stamps = [place * 1_000_000_000 for place in range(100_000)]
    told = Timeline([Amounts("n", stamps[at : at + 1_000], [3] * 1_000) for at in range(0, 100_000, 1_000)])
    meaning, readings = told.counters["n"].readings()
    assert meaning == "means of 6.872e+04 ms"
    assert len(readings) <= timeline.MOST_POINTS + 1
    assert sum(value * (later - at) for (at, value), (later, _) in pairwise(readings)) / 1e9 == pytest.approx(300_000)


def test_long_readings_are_thinned_evenly():
    told = Timeline(Reading("loss", place, float(place)) for place in range(10_000))
    meaning, readings = told.counters["loss"].readings()
    assert meaning == "one in 8 of 10,000"
    assert readings == [(place, float(place)) for place in range(0, 10_000, 8)]


def test_hostile_text_is_shortened_and_made_visible(tmp_path):
    record = failed(0, 0, 9, error_detail="\u202e" + "x" * 100_000, id="\x1b[31m" + "y" * 100_000, session="z" * 100_000)
    trace, _ = drawn(tmp_path / "run", [record])
    whole = next(one for one in requests_in(trace))
    assert whole.name.startswith("‹U+001B›[31myy")
    assert whole.facts["error_detail"].startswith("‹U+202E›xx")
    assert (tmp_path / "run" / NAME).stat().st_size < 5_000


def test_a_killed_run_is_drawn_on_its_own_axis_without_a_verdict(tmp_path):
    run = llm_run_json()
    del run["end"]
    said = export_timeline(write_run(tmp_path / "run", run, [answered(0, 3, 3, [10])], summary=False))
    trace = Trace(tmp_path / "run" / NAME)
    assert requests_in(trace)[0].start_ns == 3 * MS
    assert trace.clocks == {MONOTONIC: 0}
    assert "time 0 is its origin" in said
    assert "no verdict: bmp summarize" in said
    assert not any(name.startswith("verdict") for _, name, _, _ in trace.instants)


def test_where_a_run_was_resumed_is_marked(tmp_path):
    about = {"logs": ["records-1.jsonl"], "shift_ns": 0, "records_before": 1}
    resumed = [{"begin_ns": 40 * MS, "clock_origin_ns": 9, "clock_origin_unix_ns": 8, **about}]
    trace, _ = drawn(tmp_path / "run", [answered(0, 0, 1, [10])], resumed=resumed)
    assert ("run",) in {track for track, name, at_ns, _ in trace.instants if name.startswith("resumed") and at_ns == 9 + 40 * MS}
    assert trace.clocks == {MONOTONIC: 9, REALTIME: 8}


def test_a_damaged_log_gives_what_is_whole_and_says_so(tmp_path):
    folder = write_run(tmp_path / "run", llm_run_json(**CLOCK), llm_records(20))
    with (folder / "records.jsonl").open("ab") as log:
        log.write(b'{"id": "torn')
    said = export_timeline(folder)
    assert "torn tail of 12 bytes" in said
    trace = Trace(folder / NAME)
    assert len(requests_in(trace)) == 20
    assert any("torn tail" in str(facts) for _, _, _, facts in trace.instants)


def test_a_run_without_records_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", llm_run_json(), [], summary=False)
    with pytest.raises(UserError, match="no records to draw"):
        export_timeline(folder)
    assert not (folder / NAME).exists()


@pytest.mark.parametrize(
    ("run", "summary"),
    [
        ({}, {"verdict": "valid", "steady_state": 3}),
        ({}, {"verdict": "valid", "reasons": 5}),
        ({"clock_origin_ns": -5}, {}),
        ({"clock_origin_unix_ns": 1 << 70}, {}),
        ({"resumed": 3}, {}),
        ({"resumed": [{"begin_ns": "x"}]}, {}),
        ({"config": {"scenario": {"warmup_requests": {}}}, "resumed": [3]}, {}),
    ],
)
def test_a_damaged_folder_is_one_line_and_leaves_nothing(tmp_path, run, summary):
    folder = write_run(tmp_path / "run", llm_run_json(**{**CLOCK, **run}), llm_records(20), summary=False)
    (folder / "summary.json").write_bytes(msgspec.json.encode(summary))
    with pytest.raises(UserError, match="is damaged"):
        export_timeline(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["records.jsonl", "run.json", "summary.json"]


def test_a_damaged_gauge_is_said(tmp_path):
    folder = write_run(tmp_path / "run", llm_run_json(**CLOCK), llm_records(5))
    (folder / "gauges.jsonl").write_text('{"at_ns": 5, "gauges": {"running": 3.0}}\nnonsense\n')
    assert "gauges.jsonl: not a record" in export_timeline(folder)


def test_a_folder_that_can_t_be_written_is_one_line(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", llm_run_json(**CLOCK), llm_records(5))
    (folder / NAME).mkdir()
    with pytest.raises(UserError, match=f"can't write .*{NAME}"):
        export_timeline(folder)


def test_without_the_package_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("bytemlperf.extras._installed", lambda module: module != "perfetto")
    with pytest.raises(UserError) as raised:
        export_timeline(write_run(tmp_path / "run", llm_run_json(), llm_records(5)))
    assert "needs perfetto" in raised.value.cause
    assert raised.value.fix == "pip install 'bytemlperf-llm[perfetto]'"


def test_a_link_in_the_folder_is_not_written_through(tmp_path):
    folder = write_run(tmp_path / "run", llm_run_json(**CLOCK), llm_records(5))
    (tmp_path / "mine").write_text("mine")
    (folder / NAME).symlink_to(tmp_path / "mine")
    export_timeline(folder)
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (folder / NAME).is_symlink()
