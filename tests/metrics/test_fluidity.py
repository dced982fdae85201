"""Token deadlines against the algorithm of the paper, token by token, and on streams whose deadlines are plain to see."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf_llm.kind import figures_of
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import ClassFacts, RunFacts, SloMs
from bytemlperf_llm.metrics.fluidity import Targets
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.pages.stalls import fluidity_rows, fluidity_sections
from tests.metrics.records import MS, answered

SLO = SloMs(ttft=200.0, tpot=50.0)
FACTS = RunFacts(open_loop=True, slo_ms=SLO)


def etalon(stamps_ms, tokens, due_ms, ttft, tpot) -> tuple[int, int]:
    """Algorithm 1 of arXiv 2407.07000, a token at a time: deadlines, and those missed."""
    slack = total = missed = 0
    before = due_ms if ttft is not None else None
    for stamp, count in zip(stamps_ms, tokens, strict=True):
        for _ in range(count):
            if before is None:  # the first token sets the clock
                before = stamp
                continue
            took, deadline = stamp - before, ttft if total == 0 and ttft is not None else tpot
            if took <= deadline + slack:
                slack += deadline - took
                total += 1
            else:
                misses = (took - slack - deadline) // tpot + 1
                missed, total, slack = missed + misses, total + misses, 0
            before = stamp
    return total, missed


STREAMS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from([0, 1, 20, 49, 50, 51, 100, 101, 700]), st.integers(1, 4)), max_size=12), st.integers(0, 9_000)
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(STREAMS, st.sampled_from([None, 50, 200]))
def test_all_at_once_is_the_algorithm_token_by_token(streams, ttft):
    records, expected = [], []
    for index, (chunks, due) in enumerate(streams):
        stamps, now = [], due
        for gap, _ in chunks:
            now += gap
            stamps.append(now)
        tokens = [count for _, count in chunks]
        records.append(answered(index, due, due, stamps, tokens_per_chunk=tokens))
        expected.append(etalon(stamps, tokens, due, ttft, 50) if chunks else (None, None))
    columns = Accumulator(None, Targets(RunFacts(open_loop=True, slo_ms=SloMs(ttft=ttft, tpot=50.0)))).add_all(records).columns
    found = list(zip(columns["deadlines"].tolist(), columns["missed"].tolist(), strict=True))
    assert [pair for pair, told in zip(found, expected, strict=True) if told[0] is not None] == [
        told for told in expected if told[0] is not None
    ]


def fluidity(stamps_ms: list[float], **changes: Any) -> tuple[int, int, float]:
    found = summarize([answered(0, 0, 0, stamps_ms, **changes)], FACTS).fluidity
    assert found is not None
    return found.deadlines, found.missed, found.index.mean


def steady(first: float, gaps: list[float]) -> list[float]:
    stamps = [first]
    for gap in gaps:
        stamps.append(stamps[-1] + gap)
    return stamps


def test_a_stream_at_its_pace_misses_nothing_and_one_pause_costs_what_passed():
    assert fluidity(steady(200, [50] * 9)) == (10, 0, 1.0)
    assert fluidity(steady(200, [50] * 4 + [275] + [50] * 4)) == (14, 5, pytest.approx(1 - 5 / 14))


def test_what_came_early_pays_for_a_later_pause_and_not_for_an_earlier_one():
    """As many gaps, the same TPOT: a reader sees the early pause alone."""
    early, late = ([275] + [20] * 8, [20] * 8 + [275])
    assert fluidity(steady(200, late)) == (10, 0, 1.0)
    assert fluidity(steady(200, early))[1] == 5


def test_a_late_first_token_misses_those_that_a_reader_waited_for():
    assert fluidity(steady(330, [50] * 9)) == (12, 3, 0.75)


def test_a_burst_is_there_at_once():
    assert fluidity([200.0, 650.0], tokens_per_chunk=[10, 10]) == (20, 0, 1.0)
    assert fluidity([200.0, 750.0], tokens_per_chunk=[10, 10]) == (21, 2, pytest.approx(1 - 2 / 21))


def test_classes_have_their_own_deadlines_and_none_without_a_pace():
    classes = (ClassFacts(name="chat", share=1, slo_ms=SLO), ClassFacts(name="batch", share=1, slo_ms=SloMs(ttft=1.0)))
    facts = RunFacts(open_loop=True, classes=classes)
    slow = steady(500, [500] * 9)
    found = summarize([answered(0, 0, 0, slow, class_name="chat"), answered(1, 5, 5, slow, class_name="batch")], facts).fluidity
    assert found is not None
    assert (found.responses, found.fluid_share) == (1, 0.0)
    for without in (SloMs(), SloMs(ttft=1.0), SloMs(e2e=5.0)):
        assert summarize([answered(0, 0, 0, slow)], RunFacts(open_loop=True, slo_ms=without)).fluidity is None


def test_the_table_says_deadlines_missed_and_fluid_responses():
    draw = random.Random(1)
    records = [answered(index, 0, 0, steady(100, [draw.choice([30, 40, 200]) for _ in range(40)])) for index in range(50)]
    records.append(answered(50, 0, 0, steady(100, [10] * 40)))
    summary = msgspec.to_builtins(summarize(records, FACTS))
    told, index = summary["fluidity"], summary["fluidity"]["index"]
    missed, fluid = fluidity_rows(summary)
    assert missed == ["token deadlines missed", f"{told['missed']:,} of {told['deadlines']:,} ({told['missed'] / told['deadlines']:.1%})"]
    assert fluid[1].startswith(f"mean {index['mean']:.3f}, p10 ")
    assert fluid[1].endswith("of 51 responses are fluid (index ≥ 0.9)")
    (section,) = fluidity_sections(summary)
    assert section.rows == [missed, fluid]
    (figure,) = [figure for figure in figures_of("k", summary, None) if figure.metric == "fluidity index"]
    assert (figure.value, figure.low) == (index["mean"], index["ci95"]["mean"][0])
    assert index["max"] == 1.0
    assert index["min"] < 0.9
    assert summary["metrics"]["ttft"]["max"] == 100 * MS
