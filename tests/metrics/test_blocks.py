"""Columns of many records at once against each record by its definitions, one at a time."""

from __future__ import annotations

import math
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf.statistics.columns import ABSENT
from bytemlperf_llm.metrics import accumulator, blocks
from bytemlperf_llm.metrics.accumulator import MAX_STEP_TOKENS, OUTCOMES, OWN_LIMIT, REASONING, Accumulator
from bytemlperf_llm.metrics.definitions import (
    BURST_NS,
    STAGES,
    bursts_of,
    chunk_gaps_ns,
    due_ns,
    last_ns,
    ntpot_ns,
    stage_times_ns,
    token_runs_ns,
    token_times,
    tpot_ns,
)
from bytemlperf_llm.metrics.facts import RunFacts, SloMs
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import Stages
from tests.metrics.test_columns import runs

STAMPS = st.one_of(st.integers(0, 10**10), st.integers(-(1 << 62), (1 << 62) - 1), st.just(1 << 40))
ENGINE_STAGES = st.none() | st.builds(
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
    reasoning_ns=st.none() | STAMPS,
    answer_ns=st.none() | STAMPS,
    reasoning_tokens=st.sampled_from([None, 0, 4]),
    streamed_reasoning_tokens=st.sampled_from([None, 3]),
    hidden_tokens=st.sampled_from([0, 4]),
    inputs=st.sampled_from([0, 0, 3]),
    token_source=st.sampled_from(["usage", "chunks"]),
    stages=ENGINE_STAGES,
)


def naive_row(record):
    """A row's columns, straight from the definitions."""
    times = token_times(record)
    first, last = (times.stamps_ns[place] if times.stamps_ns else None for place in (0, -1))
    gaps = chunk_gaps_ns(times)
    stages = (None,) * len(STAGES) if last is None else stage_times_ns(record, last)
    return {
        "index": record.index,
        "outcome": OUTCOMES.index(record.outcome),
        "due": due_ns(record),
        "planned": record.planned_ns,
        "sent": record.sent_ns,
        "end": record.end_ns,
        "first": first,
        "last": last_ns(record),
        "prompt": record.prompt_tokens,
        "output": record.output_tokens,
        "stream": sum(times.tokens),
        "max_gap": max(gaps, default=None),
        "max_gap_end": times.stamps_ns[gaps.index(max(gaps)) + 1] if gaps else None,
        "silences": sum(gap > BURST_NS for gap in gaps),
        "step_tokens": sum(bursts_of(times, gaps).intervals[1:]) if times.tokens else 0,
        "reusable": record.reusable_tokens,
        "cached": record.cached_tokens,
        "prefix": record.prefix_index,
        "turn": record.turn if record.session_turns else None,
        "asked": record.max_tokens,
        "class_name": None,
        "endpoint": None,
        "inputs": record.inputs,
        "own_limit": int(record.error_class == OWN_LIMIT),
        **dict(zip(STAGES, stages, strict=True)),
        **dict(zip(REASONING, naive_reasoning(record), strict=True)),
    }


def naive_reasoning(record):
    """Tokens as reported come before those that the stream shows."""
    tokens = record.reasoning_tokens or record.streamed_reasoning_tokens
    answer = None if not tokens else max(record.output_tokens + record.hidden_tokens - tokens, 0)
    return (record.reasoning_ns, record.answer_ns, tokens, answer) if tokens else (None,) * 4


def batched_of(bursts):
    """Tokens that came in bursts of several."""
    tokens = [bursts.intervals[0] + 1, *bursts.intervals[1:]]
    return sum(many for many in tokens if many > 1)


def naive_steps(record):
    times = token_times(record)
    answered = record.outcome == "ok" and times.stamps_ns
    return bursts_of(times, chunk_gaps_ns(times)).intervals[1:] if answered else []


def naive_clusters(records):
    """Rows, runs, totals and numbers of both columns of intervals, and tokens, chunks and tokens in bursts of the answers."""
    itl, silences, tokens, chunks, batched = [], [], 0, 0, 0
    for row, record in enumerate(records):
        times = token_times(record)
        if record.outcome != "ok" or not times.stamps_ns:
            continue
        gaps = chunk_gaps_ns(times)
        bursts = bursts_of(times, gaps)
        tokens, chunks, batched = tokens + sum(times.tokens), chunks + len(times.tokens), batched + batched_of(bursts)
        itl.append((row, list(zip(*token_runs_ns(bursts), strict=True))))
        silences.append((row, [(gap, 1) for gap in gaps if gap > BURST_NS]))
    return itl, silences if batched else itl, tokens, chunks, batched


def content(clusters):
    return [
        (row, cluster, total, number)
        for row, cluster, total, number in zip(
            clusters.rows.tolist(), runs(clusters), clusters.sums.tolist(), clusters.lengths.tolist(), strict=True
        )
    ]


def counted(clusters):
    return [
        (row, cluster, sum(value * many for value, many in cluster), sum(many for _, many in cluster))
        for row, cluster in clusters
        if cluster
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(RECORDS, max_size=12), st.integers(1, 5))
def test_blocks_are_records_one_by_one(records, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_RECORDS", size)
        acc = Accumulator().add_all(records)
    naive = [{name: ABSENT if value is None else value for name, value in naive_row(record).items()} for record in records]
    columns = {name: values.tolist() for name, values in acc.columns.items()}
    assert columns == {name: [row[name] for row in naive] for name in columns}
    itl, silences, tokens, chunks, batched = naive_clusters(records)
    assert (content(acc.itl), content(acc.inter_chunk)) == (counted(itl), counted(silences))
    assert (acc.stream_tokens, acc.stream_chunks, acc.batched_tokens) == (tokens, chunks, batched)
    sizes = Counter(min(size, MAX_STEP_TOKENS) for record in records for size in naive_steps(record))
    assert {size: count for size, count in enumerate(acc.step_sizes.tolist()) if count} == sizes
    assert acc.outcomes == Counter(record.outcome for record in records)


def difference(later, earlier):
    return None if later is None or earlier is None else later - earlier


@settings(max_examples=200, deadline=None)
@given(st.lists(RECORDS, max_size=8))
def test_every_metric_of_a_request_is_its_formula(records):
    acc = Accumulator().add_all(records)
    rows = acc.rows()
    for name in ("ttft", "service_ttft", "e2e", "service_e2e", "schedule_lateness", "tpot", "ntpot", "max_stall", *STAGES):
        expected = [naive_metric(naive_row(records[row]), name) for row in rows]
        assert acc.request_values(name, rows).tolist() == [value for value in expected if value is not None]


def naive_metric(row, name):
    e2e = difference(row["last"], row["due"])
    return {
        "ttft": lambda: difference(row["first"], row["due"]),
        "service_ttft": lambda: difference(row["first"], row["sent"]),
        "e2e": lambda: e2e,
        "service_e2e": lambda: difference(row["last"], row["sent"]),
        "schedule_lateness": lambda: difference(row["sent"], row["planned"]),
        "tpot": lambda: None if row["first"] is None else tpot_ns(row["first"], row["last"], row["output"]),
        "ntpot": lambda: None if e2e is None else ntpot_ns(e2e, row["output"]),
        "max_stall": lambda: row["max_gap"],
    }.get(name, lambda: row[name])()


@settings(max_examples=150, deadline=None)
@given(st.lists(RECORDS, max_size=12), st.sampled_from([None, 0.0, 1e-12, 50.0, math.inf]), st.sampled_from([None, 0.0, 200.0, math.inf]))
def test_no_record_and_no_service_level_breaks_a_summary(records, tpot, ttft):
    """Warnings are errors here: numbers that leave their range are some."""
    repeated = [msgspec.structs.replace(record, index=place) for place, record in enumerate(records * 20)]
    found = summarize(repeated, RunFacts(open_loop=True, slo_ms=SloMs(ttft=ttft, tpot=tpot)))
    assert found.fluidity is None or 0 <= found.fluidity.missed <= found.fluidity.deadlines
    assert all(fault.lost_requests + fault.late_requests <= fault.requests for fault in found.faults)
