"""A fleet over members that are scripted: what is summed, and what a loss or a failure does."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.live.metrics import LlmMetrics, MetricsDelta
from bytemlperf_llm.loadgen.fleet import Fleet
from bytemlperf_llm.loadgen.messages import Ended, FromMember, MemberLost, Note, Refused, Seen
from tests.metrics.records import poisson_run


class ScriptedSeat:
    """Says its messages one after the other; `until_stopped` waits for `stop` before the last one."""

    def __init__(self, worker, messages, *, lost="", refuses=None, until_stopped=False):
        self.worker, self._messages, self._lost, self._refuses = worker, messages, lost, refuses
        self._until_stopped, self._stopped = until_stopped, asyncio.Event()
        self.closed = False
        self.origin_ns = None

    async def start(self):
        if self._refuses:
            raise self._refuses

    async def go(self, origin_ns):
        self.origin_ns = origin_ns

    def stop(self):
        self._stopped.set()

    async def messages(self):
        for message in self._messages:
            if self._until_stopped and isinstance(message, Ended):
                await self._stopped.wait()
            await asyncio.sleep(0)
            yield msgspec.json.decode(msgspec.json.encode(message), type=FromMember)
        if self._lost:
            raise MemberLost(self._lost)

    def described(self):
        return {"log": f"records-{self.worker}.jsonl"}

    async def close(self):
        self.closed = True


def seen(issued, ended=0, failed=0, in_flight=0):
    return Seen(issued, MetricsDelta(in_flight=in_flight, ended_requests=ended, failed_requests=failed))


def fleet_of(handles, tmp_path, *, max_error_rate=None):
    notes = []
    metrics = LlmMetrics()
    fleet = Fleet(handles, tmp_path, metrics, start_delay_ns=1, max_error_rate=max_error_rate, note=notes.append)
    return fleet, metrics, notes


async def run(fleet):
    await fleet.start()
    async with asyncio.timeout(10):
        await fleet.replay(1_000)
    await fleet.close()


async def test_all_is_summed_and_the_busiest_loop_counts(tmp_path):
    handles = [
        ScriptedSeat(0, [seen(3, 2, in_flight=1), seen(5, 3), Ended(5, 0.2, False, "")]),
        ScriptedSeat(1, [seen(4, 4), Note("a line"), Ended(4, 0.6, False, "")]),
    ]
    fleet, metrics, notes = fleet_of(handles, tmp_path)
    await run(fleet)
    assert fleet.issued == 9
    assert fleet.loop_utilisation == 0.6
    assert (fleet.failure, fleet.stopped, notes) == ("", False, ["a line"])
    assert (metrics.ended_requests, metrics.in_flight) == (9, 0)
    assert [handle.origin_ns for handle in handles] == [1_000, 1_000]
    assert all(handle.closed for handle in handles)
    assert fleet.described()[1] == {"worker": 1, "issued_requests": 4, "loop_utilisation": 0.6, "log": "records-1.jsonl"}


async def test_the_death_of_one_is_said_and_the_others_go_on(tmp_path):
    (tmp_path / "records-0.jsonl").write_bytes(b"{}\n" * 7 + b"{torn")
    handles = [
        ScriptedSeat(0, [seen(5, 4, in_flight=9)], lost="worker 0 was killed by SIGKILL"),
        ScriptedSeat(1, [seen(4, 4), seen(8, 4), Ended(8, 0.1, False, "")]),
    ]
    fleet, metrics, notes = fleet_of(handles, tmp_path)
    await run(fleet)
    assert fleet.failure == "worker 0 was killed by SIGKILL: its requests without a record count as dropped"
    assert not fleet.stopped
    assert fleet.issued == 15, "seven records of the lost one are in its log"
    assert metrics.in_flight == 0
    assert notes == ["worker 0 was killed by SIGKILL; the others continue"]
    assert fleet.described()[0]["loop_utilisation"] is None


async def test_a_full_disk_of_one_stops_all(tmp_path):
    handles = [
        ScriptedSeat(0, [Ended(1, 0.1, True, "the disk is full")]),
        ScriptedSeat(1, [seen(4), Ended(4, 0.1, True, "")], until_stopped=True),
    ]
    fleet, _, _ = fleet_of(handles, tmp_path)
    await run(fleet)
    assert fleet.failure == "worker 0: the disk is full"
    assert fleet.stopped


async def test_the_error_rate_is_that_of_all_workers(tmp_path):
    handles = [
        ScriptedSeat(0, [seen(12, 12, 12), Ended(12, 0.1, True, "")], until_stopped=True),
        ScriptedSeat(1, [seen(12, 12, 0), Ended(12, 0.1, True, "")], until_stopped=True),
    ]
    fleet, _, _ = fleet_of(handles, tmp_path, max_error_rate=0.4)
    await run(fleet)
    assert fleet.failure == "12 of 24 requests failed, more than --max-error-rate 0.4 allows"


async def test_a_member_stopped_by_someone_else_makes_the_run_invalid(tmp_path):
    handles = [ScriptedSeat(0, [Ended(1, 0.1, True, "")]), ScriptedSeat(1, [Ended(9, 0.1, True, "")], until_stopped=True)]
    fleet, _, _ = fleet_of(handles, tmp_path)
    await run(fleet)
    assert fleet.failure == "worker 0 was stopped by a signal from outside"


async def test_a_member_that_gives_up_in_mid_run_is_a_reason(tmp_path):
    fleet, _, _ = fleet_of([ScriptedSeat(0, [Refused("a prompt file ends", "mend it")])], tmp_path)
    await run(fleet)
    assert fleet.failure == "worker 0: a prompt file ends"


async def test_a_member_that_can_not_start_ends_the_run_before_it_begins(tmp_path):
    handles = [ScriptedSeat(0, []), ScriptedSeat(1, [], refuses=UserError("no server", "start it"))]
    fleet, _, _ = fleet_of(handles, tmp_path)
    with pytest.raises(UserError, match="no server"):
        await fleet.start()
    await fleet.close()
    assert all(handle.closed for handle in handles)


def test_drained_and_absorbed_metrics_are_those_of_one_process():
    """Records given to one, and dealt to three whose deltas pass through JSON: the same scrape."""
    whole, parts = LlmMetrics(), [LlmMetrics() for _ in range(3)]
    heard: list[float] = []
    together = LlmMetrics(lambda ttft_s, _: heard.extend(ttft_s))
    for index, record in enumerate(poisson_run(3_000, rate=1_000.0)):
        if index % 10 == 0:
            record.outcome, record.error_class = "failed", "http_5xx"
        for metrics in (whole, parts[index % 3]):
            metrics.started()
            metrics.ended(record)
        if index % 500 == 499:
            for worker, metrics in enumerate(parts):
                delta = msgspec.json.decode(msgspec.json.encode(metrics.drain()), type=MetricsDelta)
                delta.ttft_s = [0.5]
                together.absorb(delta, worker)
    whole.started()
    parts[1].started()
    together.absorb(parts[1].drain(), 1)
    together.flush()
    whole.flush()
    assert _samples(together) == pytest.approx(_samples(whole), rel=1e-12)
    assert (together.ended_requests, together.failed_requests, together.output_tokens, together.in_flight, together.failures) == (
        (whole.ended_requests, whole.failed_requests, whole.output_tokens, whole.in_flight, whole.failures)
    )
    assert heard == [0.5] * 18


def _samples(metrics):
    """Every line of a scrape by its name; sums of floats depend on their order in the last digit."""
    lines = (line.rpartition(" ") for line in metrics.exporter.text().decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
