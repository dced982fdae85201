"""Many records at once give the very columns that one at a time gives, and so the same summary."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf.statistics import arrays
from bytemlperf.statistics.columns import (
    delays_from,
    dot,
    either,
    gaps_of,
    ones_at_most,
    places_of,
    present,
    rows_at_most,
    rows_with,
    rows_within,
    rows_without,
    span_at_least,
    steps_of,
    take,
    weights_of,
)
from bytemlperf_llm.metrics import accumulator, blocks
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.definitions import BURST_NS
from bytemlperf_llm.metrics.facts import RunFacts, SloMs
from bytemlperf_llm.metrics.summary import summary_of
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import Stages
from tests.metrics.records import poisson_run
from tests.metrics.test_arrays import runs

numpy = pytest.importorskip("numpy")

STAMPS = st.one_of(st.integers(0, 10**10), st.integers(-(1 << 62), (1 << 62) - 1), st.just(1 << 40))
STAGES = st.none() | st.builds(
    Stages, **dict.fromkeys(("queued_ns", "scheduled_ns", "first_token_ns", "last_token_ns"), st.none() | STAMPS)
)
RECORDS = st.builds(
    RequestRecord,
    id=st.just("r"),
    index=st.integers(0, 50),
    planned_ns=st.none() | STAMPS,
    sent_ns=st.none() | STAMPS,
    chunk_ns=st.lists(st.integers(0, 10**10), max_size=6).map(sorted)
    | st.lists(st.integers(0, 6 * BURST_NS // 2).map(lambda half: half * 2), max_size=9).map(sorted)
    | st.lists(STAMPS.filter(lambda ns: abs(ns) < 1 << 61), max_size=4),
    tokens_per_chunk=st.integers(0, 6).map(lambda count: [1] * count)
    | st.lists(st.integers(0, 5), max_size=9)
    | st.lists(st.integers(0, 1 << 40), max_size=4),
    end_ns=STAMPS,
    outcome=st.sampled_from(accumulator.OUTCOMES),
    error_class=st.sampled_from(["http_5xx", "tls", None]),
    error_detail=st.text("ab\n", max_size=4),
    prompt_tokens=st.none() | st.integers(0, 9),
    output_tokens=st.integers(0, 9),
    token_source=st.sampled_from(["usage", "chunks"]),
    stages=STAGES,
)


def one_at_a_time(records):
    acc = Accumulator()
    for record in records:
        acc.add(record)
    return acc


def in_blocks(records, monkeypatch, size):
    with monkeypatch.context() as patch:
        patch.setattr(accumulator, "LARGE", 1)
        patch.setattr(blocks, "BLOCK_RECORDS", size)
        return Accumulator().add_all(records)


def content(acc):
    clusters = [(list(each.rows), runs(each), list(each.sums), list(each.lengths)) for each in (acc.itl, acc.inter_chunk)]
    columns = {name: list(column) for name, column in acc.columns.items()}
    return clusters, columns, acc.outcomes, acc.failures.table(), acc.batched_tokens, acc.stream_tokens, acc.stream_chunks


@settings(max_examples=300, deadline=None)
@given(st.lists(RECORDS, max_size=12), st.integers(1, 5))
def test_blocks_are_records_one_by_one(records, size):
    with pytest.MonkeyPatch.context() as patch:
        assert content(in_blocks(records, patch, size)) == content(one_at_a_time(records))


def test_very_many_tokens_in_a_chunk_are_left_to_the_other_way():
    (record,) = poisson_run(1, 10, tokens=2)
    record.tokens_per_chunk = [1, blocks.BLOCK_TOKENS + 1]
    assert blocks.block_of([record], numpy) is None
    record.tokens_per_chunk = [1, 2]
    assert blocks.block_of([record], numpy) is not None


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cap", [None, 5])
def test_a_summary_has_the_same_bytes_whichever_way(monkeypatch, batch, cap):
    records = poisson_run(400, 50, seed=batch, tokens=6, batch=batch)
    random.Random(3).shuffle(records)
    facts = RunFacts(
        open_loop=cap is None,
        process="poisson",
        requested_rate=50,
        scheduled_requests=401,
        max_concurrency=cap,
        slo_ms=SloMs(ttft=70.00000049, tpot=10, e2e=130.5),
    )
    plain = summary_of(one_at_a_time(records), facts).to_json()
    monkeypatch.setattr(arrays, "LARGE", 1)
    assert summary_of(in_blocks(records, monkeypatch, 64), facts).to_json() == plain
    monkeypatch.setattr(arrays, "load_numpy", lambda: pytest.fail("numpy was asked for"))
    monkeypatch.setattr(arrays, "LARGE", 1 << 40)
    assert summary_of(one_at_a_time(records), facts).to_json() == plain


def both_ways(function, *columns_and_more):
    """What it gives for columns as numpy reads them, and walked."""
    found = []
    for large in (1, 1 << 40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(arrays, "LARGE", large)
            result = function(*columns_and_more)
            found.append(result if isinstance(result, int | tuple | dict | None) else list(result))
    return found


COLUMN = st.lists(st.integers(-5, 5) | st.just(arrays.ABSENT), min_size=1, max_size=30).map(lambda values: arrays.array("q", values))


@settings(max_examples=200, deadline=None)
@given(COLUMN, st.randoms(), st.integers(-6, 6))
def test_column_steps(column, draw, limit):
    rows = arrays.array("q", draw.sample(range(len(column)), len(column)))
    other = arrays.array("q", draw.sample(list(column), len(column)))
    steps = (
        (take, column, rows),
        (present, column),
        (either, column, other),
        (rows_with, rows, column, limit),
        (rows_without, rows, column, arrays.ABSENT),
        (rows_within, rows, column, limit, limit + 3),
        (rows_at_most, rows, other, limit),
        (ones_at_most, column, limit),
        (places_of, rows),
        (delays_from, take(rows, rows), column, other, rows),
        (gaps_of, rows),
        (dot, rows, rows),
    )
    for function, *values in steps:
        fast, walked = both_ways(function, *values)
        assert fast == walked, function.__name__


@pytest.mark.parametrize("top", [3, (1 << 24) - 1, (1 << 48) - 1, 1 << 50])
def test_dot_is_exact(top):
    draw = random.Random(top)
    left = arrays.array("q", [draw.randrange(top + 1) for _ in range(20_000)])
    right = arrays.array("q", [draw.randrange(min(top, 1 << 25) + 1) for _ in range(20_000)])
    fast, walked = both_ways(dot, left, right)
    assert fast == walked == sum(map(int.__mul__, left, right))


def test_steps_walked_and_not():
    acc = one_at_a_time(poisson_run(300, 50))
    from bytemlperf_llm.metrics.rates import in_flight_steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "LARGE", 1 << 40)
        walked = in_flight_steps(acc)
        expected = list(walked), walked.weights_ns(), walked.busy(9), walked.busy(10**6)
        assert steps_of(arrays.array("q"), arrays.array("q")) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "LARGE", 1)
        fast = in_flight_steps(acc)
        times, levels = fast._times_ns, fast._levels
        assert None not in (span_at_least(times, levels, 9), weights_of(times, levels))
        assert (list(fast), fast.weights_ns(), fast.busy(9), fast.busy(10**6)) == expected
