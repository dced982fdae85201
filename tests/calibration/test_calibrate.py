"""Joining records with the server's truth, exactly; the ladder, on scripted measurements; a real step."""

from __future__ import annotations

import os

import pytest

from bytemlperf_llm.calibration import ladder as calibrate
from bytemlperf_llm.calibration.ladder import Account, Usage, climb, join, others_share, saturated, step_of
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.metrics.client_error import Spread
from tests.calibration.made import errors, step
from tests.metrics.records import answered, failed
from tests.virtual import VirtualLoop

MS = 1_000_000
ORIGIN_NS = 1_000 * MS


def account(first_ms: float, last_ms: float, tokens: int, arrival_ms: float = 0.0) -> Account:
    times = [ORIGIN_NS + round(value * MS) for value in (arrival_ms, first_ms, last_ms)]
    return Account(arrival_ns=times[0], first_write_ns=times[1], last_write_ns=times[2], tokens=tokens)


def test_join_takes_the_servers_stamps_from_ours():
    records = [answered(0, 10, 10.5, [60.25, 70.5, 80.0]), answered(1, 20, 20.25, [71.0])]
    truth = {"r0": account(60, 79, 3), "r1": account(71.5, 71.5, 1)}
    found = join(records, truth, ORIGIN_NS, 10 * MS)
    assert found.ttft_ns == [250_000, -500_000]
    assert found.e2e_ns == [1_000_000, -500_000]
    assert found.tpot_ns == [375_000]  # (1 ms − 0.25 ms) / 2
    assert found.itl_ns == [250_000, -500_000]
    assert found.lateness_ns == [500_000, 250_000]
    assert found.unmatched == 0


def test_join_leaves_chunks_without_tokens_out_and_spreads_batched_ones():
    record = answered(0, 0, 0, [1, 50, 70], tokens_per_chunk=[0, 1, 2])
    found = join([record], {"r0": account(50, 70, 3)}, ORIGIN_NS, 10 * MS)
    assert (found.ttft_ns, found.e2e_ns, found.tpot_ns, found.itl_ns) == ([0], [0], [0], [0, 0])


@pytest.mark.parametrize(
    ("record", "truth"),
    [
        (failed(0, 0, 5), {"r0": account(1, 2, 2)}),
        (answered(0, 0, 0, [1, 2]), {}),
        (answered(0, 0, 0, [1, 2]), {"r0": account(1, 2, 3)}),  # the server counts another number of tokens
        (answered(0, 0, 0, [1, 2]), {"r0": Account(arrival_ns=1)}),  # it never wrote
        (answered(0, 0, 0, []), {"r0": account(1, 2, 0)}),
    ],
)
def test_what_has_no_whole_account_is_unmatched(record, truth):
    found = join([record], truth, ORIGIN_NS, 10 * MS)
    assert found.unmatched == 1
    assert found.ttft_ns == found.e2e_ns == []


def test_a_step_says_rates_streams_and_shares():
    records = [answered(index, index * 100, index * 100 + 1, [index * 100 + 51, index * 100 + 61]) for index in range(10)]
    stats = {
        "requests": {record.id: {"arrival_ns": 0, "first_write_ns": 1, "last_write_ns": 2, "tokens": 2} for record in records},
        "totals": {"cpu_s": 0.5},
        "write_error_us": {"count": 20, "p50": 1.5, "p99": 3.25, "max": 7.0},
    }
    found = step_of(10.0, records, stats, ORIGIN_NS, Usage(wall_s=1.0, process_s=0.3, machine_s=1.0), loop_busy=0.25)
    whole_s = 0.961
    assert (found.requests, found.unmatched, found.loop_busy, found.server_busy) == (10, 0, 0.25, 0.5)
    assert found.rate_offered == pytest.approx(10.0)
    assert found.chunks_per_s == pytest.approx(20 / whole_s)
    assert found.tokens_per_s == pytest.approx(20 / whole_s)
    assert found.streams == pytest.approx(0.6 / whole_s)
    assert found.server_write == Spread(count=20, p50_ns=1500, p99_ns=3250, max_ns=7000)
    assert found.others_busy == pytest.approx(0.2 / (os.cpu_count() or 1))


def test_a_step_whose_server_wrote_nothing_is_all_unmatched():
    stats = {"requests": {}, "totals": {"cpu_s": 0.0}, "write_error_us": {"count": 0}}
    found = step_of(10.0, [failed(0, 0, 5)], stats, ORIGIN_NS, Usage(1.0, 0.1, 0.1), loop_busy=0.1)
    assert (found.unmatched, found.chunks_per_s, found.server_write.p99_ns, found.others_busy) == (1, 0.0, 0, 0.0)


def test_what_the_machine_did_besides():
    assert others_share(Usage(10.0, 2.0, 9.0), server_s=3.0, cores=2) == 0.2
    assert others_share(Usage(10.0, 2.0, 4.0), server_s=3.0, cores=2) == 0.0


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({}, ""),
        ({"loop_busy": 0.91, "server_busy": 0.95}, "client"),
        ({"server_busy": 0.91, "rate_offered": 50.0}, "server"),
        ({"server_write": errors(10.1, 20)}, "server"),
        ({"rate_offered": 94.0, "loop_busy": 0.6}, "client"),
        ({"rate_offered": 94.0, "loop_busy": 0.4}, "machine"),
        ({"rate_offered": 96.0}, ""),
    ],
)
def test_who_gave_out(changes, who):
    assert saturated(step(100, **changes)) == who


async def test_the_ladder_ends_with_the_first_saturated_step():
    asked = []

    async def measure(rate):
        asked.append(rate)
        return step(rate, loop_busy=rate / 1000)

    steps = await climb((10, 100, 950, 2000), measure)
    assert asked == [10, 100, 950]
    assert [each.saturated for each in steps] == ["", "", "client"]


async def test_the_ladder_is_climbed_whole_when_nothing_gives_out():
    async def measure(rate):
        return step(rate)

    assert len(await climb(calibrate.RATES, measure)) == len(calibrate.RATES)


def test_the_pacers_overshoot_is_nothing_on_a_virtual_clock(monkeypatch):
    loop = VirtualLoop()
    try:
        monkeypatch.setattr(calibrate, "monotonic_ns", loop.now_ns)
        monkeypatch.setattr(calibrate, "TICK_SAMPLES", 1)
        late = loop.run_until_complete(calibrate.overshoot(Pacer(loop.now_ns)))
    finally:
        loop.close()
    assert (late.count, late.max_ns) == (calibrate.PACER_WAITS, 0)


@pytest.mark.slow
def test_a_real_step():
    said = []
    found = calibrate.run_calibration(said.append, rates=(20.0,), step_s=1.0)
    assert said == ["20 requests/s for 1 s"]
    (only,) = found.steps
    assert only.unmatched == 0
    assert only.requests == only.ttft.count == only.e2e.count == only.lateness.count > 0
    assert only.itl.count == only.requests * (calibrate.TOKENS - 1)
    assert only.server_write.count == only.requests * calibrate.TOKENS
    assert found.timer.resolution_ns >= 1
    assert found.timer.tick_ns >= found.timer.resolution_ns
