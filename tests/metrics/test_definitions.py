"""Formulas on hand-made records: exact to the nanosecond."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.definitions import (
    BURST_NS,
    FORMULAS,
    STAGES,
    TokenTimes,
    bursts_of,
    chunk_gaps_ns,
    divide_ns,
    due_ns,
    stage_times_ns,
    token_runs_ns,
    token_times,
    tpot_ns,
)
from engines.contract import Stages
from tests.metrics.records import MS, answered, failed


def values_of(record, name):
    acc = Accumulator().add_all([record])
    return acc.request_values(name, acc.rows()).tolist()


def test_every_latency_of_one_open_loop_request():
    record = answered(0, planned_ms=100, sent_ms=103, stamps_ms=[150, 160, 175, 180])
    expected = {
        "ttft": 50 * MS,
        "service_ttft": 47 * MS,
        "tpot": 10 * MS,
        "e2e": 80 * MS,
        "service_e2e": 77 * MS,
        "ntpot": 20 * MS,
        "max_stall": 15 * MS,
        "schedule_lateness": 3 * MS,
    }
    assert {name: values_of(record, name)[0] for name in expected} == expected


def test_closed_loop_counts_from_sent():
    record = answered(0, planned_ms=None, sent_ms=103, stamps_ms=[150, 160])
    assert due_ns(record) == 103 * MS
    assert values_of(record, "ttft") == values_of(record, "service_ttft") == [47 * MS]
    assert values_of(record, "schedule_lateness") == []


def test_first_token_is_the_first_chunk_that_carries_one():
    record = answered(0, 0, 0, [10, 20, 30, 40], tokens_per_chunk=[0, 1, 0, 1])
    assert values_of(record, "ttft") == [20 * MS]
    assert values_of(record, "max_stall") == [20 * MS]
    assert list(token_times(record).stamps_ns) == [20 * MS, 40 * MS]


def test_tpot_and_stall_are_absent_for_one_token():
    record = answered(0, 0, 0, [10])
    assert values_of(record, "tpot") == []
    assert values_of(record, "max_stall") == []
    assert values_of(record, "ntpot") == [10 * MS]


def test_tpot_takes_the_reported_token_count():
    record = answered(0, 0, 0, [10, 20], output_tokens=6)
    assert values_of(record, "tpot") == [2 * MS]


def test_no_token_means_no_latency():
    record = answered(0, 0, 1, [10, 20], tokens_per_chunk=[0, 0])
    assert all(values_of(record, name) == [] for name in ("ttft", "tpot", "e2e", "ntpot", "max_stall"))


def test_division_rounds_to_the_nearest_nanosecond():
    assert [divide_ns(total, 4) for total in (0, 1, 2, 3, 5, 6)] == [0, 0, 1, 1, 1, 2]
    assert tpot_ns(0, 10, 4) == 3
    assert tpot_ns(0, 10, 1) is None


def intervals_of(times):
    values, counts = token_runs_ns(bursts_of(times, chunk_gaps_ns(times)))
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]


def test_a_batch_shares_its_gap_with_the_remainder_first():
    times = TokenTimes(stamps_ns=[100 * MS, 110 * MS, 113 * MS], tokens=[2, 3, 1])
    assert intervals_of(times) == [0, 3_333_334, 3_333_333, 3_333_333, 3 * MS]


def test_a_burst_is_the_same_however_its_reads_fell():
    """Four tokens every 40 ms: as one chunk, or split between reads 30 to 90 µs apart."""
    whole = TokenTimes(stamps_ns=[50 * MS, 90 * MS, 130 * MS], tokens=[1, 4, 4])
    split = TokenTimes(
        stamps_ns=[50 * MS, 90 * MS - 120_000, 90 * MS - 30_000, 90 * MS, 130 * MS - 90_000, 130 * MS], tokens=[1, 1, 2, 1, 3, 1]
    )
    assert intervals_of(whole) == intervals_of(split) == [10 * MS] * 8
    assert bursts_of(split, chunk_gaps_ns(split)).intervals == [0, 4, 4]
    apart = TokenTimes(stamps_ns=[0, BURST_NS + 1], tokens=[1, 1])
    assert bursts_of(apart, chunk_gaps_ns(apart)).intervals == [0, 1]
    close = TokenTimes(stamps_ns=[0, BURST_NS], tokens=[1, 1])
    assert bursts_of(close, chunk_gaps_ns(close)).intervals == [1]


def test_a_stream_of_tokens_closer_than_a_burst_keeps_its_pace():
    times = TokenTimes(stamps_ns=[place * 100_000 for place in range(101)], tokens=[1] * 101)
    assert intervals_of(times) == [100_000] * 100


@given(st.lists(st.tuples(st.integers(0, 10**10) | st.integers(0, 10**6), st.integers(1, 9)), min_size=1, max_size=40))
def test_intervals_of_a_request_sum_to_its_decode_time(chunks):
    stamps, now = [], 0
    for gap, _ in chunks:
        now += gap
        stamps.append(now)
    times = TokenTimes(stamps_ns=stamps, tokens=[count for _, count in chunks])
    intervals = intervals_of(times)
    assert len(intervals) == sum(times.tokens) - 1
    assert sum(intervals) == stamps[-1] - stamps[0]
    assert min(intervals, default=0) >= 0


def test_stages_split_a_request_from_sent_to_delivered():
    stages = Stages(queued_ns=2 * MS, scheduled_ns=5 * MS, first_token_ns=9 * MS, last_token_ns=19 * MS)
    record = answered(0, 0, 1, [10, 20], stages=stages)
    assert stage_times_ns(record, 20 * MS) == (1 * MS, 3 * MS, 4 * MS, 10 * MS, 1 * MS)
    partial = answered(0, 0, 1, [10, 20], stages=Stages(queued_ns=2 * MS, first_token_ns=9 * MS, last_token_ns=19 * MS))
    assert stage_times_ns(partial, 20 * MS) == (1 * MS, None, None, 10 * MS, 1 * MS)
    assert stage_times_ns(answered(0, 0, 1, [10]), 10 * MS) == (None,) * len(STAGES)


def test_every_metric_has_a_formula():
    assert set(STAGES) < set(FORMULAS)
    assert all(text and "\n" not in text for text in FORMULAS.values())


def test_a_failed_request_without_chunks_has_no_latency():
    assert values_of(failed(0, 5, 9), "ttft") == []
