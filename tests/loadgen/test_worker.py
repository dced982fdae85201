"""The load generator on a virtual clock: stamps, outcomes and schedules equal the truth exactly."""

from __future__ import annotations

import asyncio
import math
from typing import get_args

import msgspec
import pytest

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.export.vllm_json import VllmSetup, vllm_result
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.worker import MAX_UNSETTLED, Worker, WorkerConfig
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.workload.schedule import Planned
from engines.contract import ErrorClass, Finish
from tests.virtual import MS, Collected, Script, ScriptedEngine, make_request, make_worker, run

THREE_TOKENS = Script(((50 * MS, 1), (60 * MS, 1), (75 * MS, 1)), reported_tokens=3)


def replay_open(scripts, offsets_ns, **kwargs):
    slots = kwargs.pop("slots", 10**9)

    async def main(loop):
        engine = ScriptedEngine(scripts, slots)
        worker, sink = make_worker(loop, engine, **kwargs)
        await worker.run_open((Planned(make_request(i), offset) for i, offset in enumerate(offsets_ns)), 0)
        return worker, sink, engine

    return run(lambda loop: main(loop))


def test_stamps_equal_the_script_to_the_nanosecond():
    offsets = [0, 3_000_001, 3_000_002, 1_234_567_891]
    _, sink, _ = replay_open([THREE_TOKENS], offsets)
    for record, offset in zip(sink.by_index(), offsets, strict=True):
        assert record.planned_ns == record.sent_ns == offset
        assert record.chunk_ns == [offset + 50 * MS, offset + 60 * MS, offset + 75 * MS]
        assert record.first_byte_ns == offset + 50 * MS
        assert record.end_ns == offset + 75 * MS
        assert (record.outcome, record.output_tokens, record.tokens_per_chunk) == ("ok", 3, [1, 1, 1])
        assert (record.prompt_tokens, record.token_source, record.finish_reason) == (3, "usage", "length")


def test_summary_of_a_scripted_run_is_exact():
    _, sink, _ = replay_open([THREE_TOKENS], [i * 10 * MS for i in range(500)])
    summary = summarize(sink.records, RunFacts(open_loop=True, requested_rate=100.0, scheduled_requests=500))
    value = {name: metric.percentiles["50"] for name, metric in summary.metrics.items()}
    assert value["ttft"] == value["service_ttft"] == 50 * MS
    assert value["e2e"] == 75 * MS
    assert value["tpot"] == 12_500_000
    assert summary.metrics["ttft"].min == summary.metrics["ttft"].max == 50 * MS
    assert {summary.metrics["itl"].min, summary.metrics["itl"].max} == {10 * MS, 15 * MS}
    assert summary.metrics["schedule_lateness"].max == 0
    assert summary.outcomes["ok"] == 500
    assert summary.verdict == "valid"


def test_open_loop_never_waits_for_answers():
    slow = Script(((10 * NS_PER_S, 1),))
    _, sink, engine = replay_open([slow], [i * MS for i in range(100)])
    assert [record.sent_ns for record in sink.by_index()] == [i * MS for i in range(100)]
    assert engine.started == list(range(100))


def test_a_freeze_of_the_server_shows_in_latency_from_planned():
    """100 requests/s for 60 s, 50 ms of service, ten connections, frozen for 10 s: no coordinated omission.

    The server answers one request a slot, ten slots; from 20 s to 30 s it answers nothing.
    """
    freeze_from, freeze_to, service = 20 * NS_PER_S, 30 * NS_PER_S, 50 * MS

    class Freezing(ScriptedEngine):
        async def generate(self, request, recorder):
            loop = asyncio.get_running_loop()
            recorder.sent()
            now = round(loop.time() * NS_PER_S)
            end = now + service
            if now < freeze_to and end > freeze_from:
                end = freeze_to + service if now >= freeze_from else end + (freeze_to - freeze_from)
            await asyncio.sleep((end - now) / NS_PER_S)
            recorder.chunk(1)
            return Finish(reason="length")

    async def main(loop):
        worker, sink = make_worker(loop, Freezing([THREE_TOKENS]), max_concurrency=10, drain_s=100)
        await worker.run_open((Planned(make_request(i), i * 10 * MS) for i in range(6000)), 0)
        return sink

    sink: Collected = run(main)
    summary = summarize(sink.records, RunFacts(open_loop=True, requested_rate=100.0, scheduled_requests=6000, max_concurrency=10))
    planned_p99_s = summary.metrics["e2e"].percentiles["99"] / NS_PER_S
    sent_p99_s = summary.metrics["service_e2e"].percentiles["99"] / NS_PER_S
    assert planned_p99_s == pytest.approx(_true_p99_s(), rel=0.01)
    assert planned_p99_s == pytest.approx(9.75, rel=0.02)
    assert sent_p99_s < 0.06, "measured from sending, the freeze all but vanishes"


def _true_p99_s() -> float:
    """The same queue, computed by hand: ten slots, first come first served."""
    free = [0] * 10
    latencies = []
    for i in range(6000):
        planned = i * 10 * MS
        slot = min(range(10), key=lambda s: free[s])
        begin = max(planned, free[slot])
        end = begin + 50 * MS
        if begin < 30 * NS_PER_S and end > 20 * NS_PER_S:
            end = 30 * NS_PER_S + 50 * MS if begin >= 20 * NS_PER_S else end + 10 * NS_PER_S
        free[slot] = end
        latencies.append(end - planned)
    latencies.sort()
    return latencies[math.ceil(0.99 * len(latencies)) - 1] / NS_PER_S


def test_waiting_for_a_slot_counts_from_planned():
    one_second = Script(((NS_PER_S, 1),))
    _, sink, _ = replay_open([one_second], [0, 0, 0], max_concurrency=1)
    records = sink.by_index()
    assert [record.planned_ns for record in records] == [0, 0, 0]
    assert [record.sent_ns for record in records] == [0, NS_PER_S, 2 * NS_PER_S]
    assert [record.end_ns for record in records] == [NS_PER_S, 2 * NS_PER_S, 3 * NS_PER_S]


def test_closed_loop_keeps_the_asked_number_in_flight():
    async def main(loop):
        engine = ScriptedEngine([THREE_TOKENS])
        worker, sink = make_worker(loop, engine)
        await worker.run_closed(iter([make_request(i) for i in range(10)]), 3, 0)
        return sink

    records = run(main).by_index()
    assert [record.sent_ns for record in records] == [(i // 3) * 75 * MS for i in range(10)]
    assert all(record.planned_ns is None for record in records)


def test_no_more_is_shown_in_flight_than_the_lanes_of_a_closed_loop():
    metrics = LlmMetrics()
    levels = []

    class Watched(ScriptedEngine):
        async def generate(self, request, recorder):
            levels.append((metrics.level, metrics.in_flight))
            return await super().generate(request, recorder)

    async def main(loop):
        worker = Worker(Watched([THREE_TOKENS]), metrics, Pacer(loop.now_ns), WorkerConfig(), now=loop.now_ns)
        metrics.unsettled = lambda: worker.unsettled
        await worker.run_closed(iter([make_request(i) for i in range(30)]), 3, 0)

    run(main)
    assert max(level for level, _ in levels) == 3
    assert max(counted for _, counted in levels) > 3  # with those whose records aren't made yet
    assert metrics.level == 0


def test_a_query_of_several_samples_is_sent_when_the_one_before_is_whole():
    slow = Script(((100 * MS, 1),))

    async def main(loop):
        worker, sink = make_worker(loop, ScriptedEngine([THREE_TOKENS, THREE_TOKENS, slow]))
        await worker.run_closed(iter([make_request(i) for i in range(8)]), 3, 0, together=True)
        return worker, sink

    worker, sink = run(main)
    assert [record.sent_ns for record in sink.by_index()] == [0] * 3 + [100 * MS] * 3 + [200 * MS] * 2
    assert worker.issued == 8


class SlowToDecode(ScriptedEngine):
    """An engine that answers at once and whose answers take long to decode."""

    def __init__(self, loop, sink_of):
        super().__init__([Script(((0, 1),))])
        self._loop, self.sink_of, self.most_waiting, self.answered = loop, sink_of, 0, 0

    async def generate(self, request, recorder):
        self.most_waiting = max(self.most_waiting, self.answered - len(self.sink_of().records))
        finish = await super().generate(request, recorder)
        self.answered += 1
        return finish

    def decode(self, payloads):
        self._loop.jumping.now_s += 0.001
        return super().decode(payloads)


def test_answers_that_wait_for_their_records_are_few_however_long_decoding_takes():
    async def main(loop):
        engine = SlowToDecode(loop, lambda: sink)
        worker, sink = make_worker(loop, engine)
        await worker.run_closed(iter([make_request(i) for i in range(2_000)]), 64, 0)
        assert len(sink.records) == 2_000
        return engine.most_waiting

    assert run(main) <= MAX_UNSETTLED + 1


def test_closed_loop_ends_with_its_time_and_drains():
    async def main(loop):
        worker, sink = make_worker(loop, ScriptedEngine([THREE_TOKENS]))
        endless = (make_request(i) for i in range(10**9))
        await worker.run_closed(endless, 2, 0, end_ns=200 * MS)
        return worker, sink, loop.now_ns()

    worker, sink, ended_ns = run(main)
    assert worker.issued == 6  # three rounds of two: at 0, 75 and 150 ms
    assert [record.outcome for record in sink.records] == ["ok"] * 6
    assert ended_ns == 225 * MS


@pytest.mark.parametrize(
    ("script", "timeouts", "error_class", "ends_at_ms"),
    [
        (Script(((50 * MS, 1),), connect_ns=5 * NS_PER_S), Timeouts(connect_ns=NS_PER_S), "connect_timeout", 1000),
        (Script(((5 * NS_PER_S, 1),)), Timeouts(first_token_ns=2 * NS_PER_S), "first_token_timeout", 2000),
        (Script(((50 * MS, 1), (9 * NS_PER_S, 1))), Timeouts(idle_ns=3 * NS_PER_S), "idle_timeout", 3050),
        (Script(tuple((i * 100 * MS, 1) for i in range(1, 100))), Timeouts(idle_ns=NS_PER_S, total_ns=4 * NS_PER_S), "total_timeout", 4000),
    ],
)
def test_each_timeout_ends_its_request_at_its_limit(script, timeouts, error_class, ends_at_ms):
    _, sink, _ = replay_open([script, THREE_TOKENS], [0, 0], timeouts=timeouts)
    late, fine = sink.by_index()
    assert (late.outcome, late.error_class, late.end_ns) == ("failed", error_class, ends_at_ms * MS)
    assert fine.outcome == "ok"


def test_progress_within_the_idle_limit_is_no_timeout():
    steady = Script(tuple((i * 900 * MS, 1) for i in range(1, 50)))
    _, sink, _ = replay_open([steady], [0], timeouts=Timeouts(idle_ns=NS_PER_S), drain_s=100)
    assert sink.records[0].outcome == "ok"
    assert len(sink.records[0].chunk_ns) == 49


def test_what_is_in_flight_when_the_drain_ends_is_counted_as_that():
    _, sink, _ = replay_open([Script(((50 * MS, 1),), hang=True), THREE_TOKENS], [0, 0], drain_s=5)
    hanging, fine = sink.by_index()
    assert (hanging.outcome, hanging.error_class, hanging.chunk_ns) == ("in_flight", None, [50 * MS])
    assert hanging.end_ns == 5 * NS_PER_S
    assert fine.outcome == "ok"


def test_failures_are_records_and_the_run_goes_on():
    broken = Script(((50 * MS, 1),), error="connection_reset")
    _, sink, _ = replay_open([broken, THREE_TOKENS], [i * MS for i in range(20)])
    assert [record.outcome for record in sink.by_index()] == ["failed", "ok"] * 10
    failed = sink.by_index()[0]
    assert (failed.error_class, failed.error_detail, failed.output_tokens) == ("connection_reset", "as scripted", 1)


def test_bad_company_changes_no_figure_of_the_others():
    """Requests that fail in every way, between those of a clean run: its percentiles stay as they are, to the nanosecond."""
    honest = [Script(((first * MS, 1), (first * MS + 7 * MS, 1)), reported_tokens=2) for first in (20, 31, 45, 52, 77)]
    bad = [Script((), error=error) for error in get_args(ErrorClass)]
    bad += [Script(((5 * MS, 1),), error="truncated_stream"), Script((), hang=True), Script(((5 * MS, 1),), hang=True), Script(())]
    mixed = [each for index in range(600) for each in (honest[index % len(honest)], bad[index % len(bad)])]
    at = [i * 5 * MS for i in range(1200)]
    limits = Timeouts(first_token_ns=900 * MS, idle_ns=300 * MS)
    _, clean, _ = replay_open(honest, at[::2], timeouts=limits)
    _, sink, _ = replay_open(mixed, at, timeouts=limits)
    outcomes = [record.outcome for record in sink.by_index()]
    assert outcomes == ["ok", "failed"] * 600
    among, alone = (summarize(found.records, RunFacts(open_loop=True)).metrics for found in (sink, clean))
    for name in ("ttft", "service_ttft", "tpot", "itl", "e2e"):
        assert among[name].percentiles == alone[name].percentiles
        assert (among[name].count, among[name].mean) == (alone[name].count, alone[name].mean)


def test_a_bug_in_an_engine_is_a_failed_request():
    class Broken(ScriptedEngine):
        async def generate(self, request, recorder):
            raise ZeroDivisionError("oops")

    async def main(loop):
        worker, sink = make_worker(loop, Broken([THREE_TOKENS]))
        await worker.run_open([Planned(make_request(0), 0)], 0)
        return sink

    record = run(main).records[0]
    assert (record.outcome, record.error_class, record.error_detail) == ("failed", "engine_failed", "ZeroDivisionError: oops")


def test_an_answer_of_nothing_is_a_failure():
    _, sink, _ = replay_open([Script(())], [0])
    assert (sink.records[0].outcome, sink.records[0].error_class) == ("failed", "empty_response")


def test_an_answer_without_a_token_failed():
    """Whatever else it brought, and in every output alike."""
    _, sink, _ = replay_open([Script(((50 * MS, 0), (60 * MS, 0)), reported_tokens=0)], [0, MS, 2 * MS])
    assert {(record.outcome, record.error_class) for record in sink.records} == {("failed", "no_token")}
    facts = RunFacts(open_loop=True, scheduled_requests=3)
    summary = summarize(sink.records, facts)
    assert (summary.verdict, summary.outcomes["ok"]) == ("invalid", 0)
    vllm = VllmSetup(date="20260801-120000", backend="openai", model_id="m", tokenizer_id=None)
    assert vllm_result(sink.records, facts, vllm)["completed"] == 0


@pytest.mark.parametrize(("reason", "outcome"), [("abort", "failed"), ("error", "failed"), ("length", "ok"), (None, "ok")])
def test_an_answer_that_the_engine_gave_up_failed(reason, outcome):
    class GivesUp(ScriptedEngine):
        async def generate(self, request, recorder):
            finish = await super().generate(request, recorder)
            return msgspec.structs.replace(finish, reason=reason)

    async def main(loop):
        worker, sink = make_worker(loop, GivesUp([THREE_TOKENS]))
        await worker.run_open([Planned(make_request(0), 0)], 0)
        return sink

    record = run(main).records[0]
    assert (record.outcome, record.tokens_per_chunk) == (outcome, [1, 1, 1])
    assert (record.error_class == "engine_failed") == (outcome == "failed")


def test_an_engine_that_cannot_decode_loses_the_answer_and_not_the_run():
    class Broken(ScriptedEngine):
        def decode(self, payloads):
            raise RecursionError("nested too deep")

    async def main(loop):
        worker, sink = make_worker(loop, Broken([THREE_TOKENS]))
        await worker.run_open([Planned(make_request(i), 0) for i in range(3)], 0)
        return sink

    for record in run(main).records:
        assert (record.outcome, record.error_class, record.tokens_per_chunk) == ("failed", "engine_failed", [0, 0, 0])
        assert "nested too deep" in record.error_detail


def test_a_stop_drains_and_leaves_the_rest_unsent():
    async def main(loop):
        worker, sink = make_worker(loop, ScriptedEngine([THREE_TOKENS]), max_concurrency=2)
        loop.call_later(0.1, worker.stop)
        await worker.run_open((Planned(make_request(i), i * 10 * MS) for i in range(100)), 0)
        return worker, sink

    worker, sink = run(main)
    outcomes = [record.outcome for record in sink.by_index()]
    assert worker.issued < 100
    assert set(outcomes) == {"ok", "dropped"}
    assert len(outcomes) == worker.issued
    assert outcomes.count("ok") == 4  # two slots, 75 ms each: started at 0, 10, 75 and 85 ms
    assert all(record.sent_ns is None for record in sink.records if record.outcome == "dropped")


def test_every_scheduled_request_ends_in_one_bucket():
    scripts = [THREE_TOKENS, Script(((50 * MS, 1),), error="http_5xx"), Script(((50 * MS, 1),), hang=True), Script(())]
    _, sink, _ = replay_open(scripts, [i * MS for i in range(400)], drain_s=1)
    summary = summarize(sink.records, RunFacts(open_loop=True, scheduled_requests=400))
    assert sum(summary.outcomes.values()) == 400
    assert summary.outcomes == {"ok": 100, "failed": 200, "cancelled": 0, "dropped": 0, "in_flight": 100}
    assert sink.in_flight == 0
