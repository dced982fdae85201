"""Speculative decoding on planted streams and counters: tokens a step, of all and of each class; acceptance; nothing on plain streams."""

from __future__ import annotations

import random
from itertools import accumulate

import msgspec
import numpy as np
import pytest

from bytemlperf_llm.metrics.accumulator import MAX_STEP_TOKENS, Accumulator
from bytemlperf_llm.metrics.facts import ClassFacts, RunFacts, SloMs
from bytemlperf_llm.metrics.speculation import Drafts, TokensPerStep, drafts_of, speculation_of
from bytemlperf_llm.pages.columns import RunColumns
from bytemlperf_llm.pages.speculation import speculation_figures, speculation_rows, speculation_sections
from engines.contract import Counted
from tests.metrics.records import answered

FACTS = RunFacts(open_loop=True)
STEP_MS = 20.0
COUNTED = Counted(
    counts={"drafts": 400.0, "draft_tokens": 1_200.0, "accepted_tokens": 600.0}
    | {f"accepted_tokens_at_{place}": count for place, count in enumerate((320.0, 200.0, 80.0))}
)


def drafted(index: int, sizes: list[int], **changes: object):
    """A first token, then a step every 20 ms with so many tokens."""
    start = 50.0 * index
    stamps = list(accumulate([STEP_MS] * len(sizes), initial=start + 30))
    return answered(index, start, start, stamps, tokens_per_chunk=[1, *sizes], **changes)


def run_of(count: int = 60, seed: int = 1, **changes: object):
    draw = random.Random(seed)
    return [drafted(index, draw.choices([1, 2, 4], [2, 1, 1], k=40), **changes) for index in range(count)]


def test_tokens_a_step_are_those_that_were_planted():
    records = [drafted(index, [1, 1, 2, 4]) for index in range(10)]
    found = speculation_of(Accumulator().add_all(records), FACTS, Counted())
    assert found is not None
    assert (found.steps, found.tokens_per_step, found.step_sizes) == (
        40,
        TokensPerStep(mean=2.0, ci95=(2.0, 2.0)),
        {"1": 20, "2": 10, "4": 10},
    )
    assert (found.drafts, found.accepted_per_answer, found.by_class) == (None, None, {})


def test_a_step_in_several_reads_is_one_and_large_ones_are_counted_together():
    """A server writes a step's three tokens as three events, some 50 µs apart."""
    stamps = [30.0, *(50 + 20 * step + 0.05 * token for step in range(10) for token in range(3))]
    found = speculation_of(Accumulator().add_all([answered(0, 0, 0, stamps), drafted(1, [1_000])]), FACTS, Counted())
    assert found is not None
    assert found.step_sizes == {"3": 10, str(MAX_STEP_TOKENS): 1}
    assert found.tokens_per_step is not None
    assert found.tokens_per_step.mean == pytest.approx((30 + 1_000) / 11), "none of the thousand is lost in the mean"


def test_each_class_has_its_own_tokens_a_step():
    """The data set decides what a draft is worth: code repeats itself, prose doesn't."""
    facts = RunFacts(open_loop=True, classes=tuple(ClassFacts(name=name, share=1, slo_ms=SloMs()) for name in ("code", "prose")))
    code = [drafted(index, [4] * 20, class_name="code") for index in range(10)]
    prose = [drafted(index, [1] * 19 + [2], class_name="prose") for index in range(10, 20)]
    found = speculation_of(Accumulator().add_all([*code, *prose]), facts, Counted())
    assert found is not None
    assert {name: each.mean for name, each in found.by_class.items()} == {"code": 4.0, "prose": 1.05}
    figures = {figure.metric: figure.value for figure in speculation_figures("k", {"speculation": msgspec.to_builtins(found)})}
    assert figures == {"tokens a step": 2.525, "code tokens a step": 4.0, "prose tokens a step": 1.05}


def test_acceptance_is_what_the_engine_counted():
    assert drafts_of(COUNTED) == Drafts(
        drafts=400, draft_tokens=1_200, accepted_tokens=600, acceptance_length=2.5, acceptance_rate=0.5, acceptance_at=[0.8, 0.5, 0.2]
    )
    two = drafts_of(Counted(counts={f"{server}_{name}": value for server in "12" for name, value in COUNTED.counts.items()}))
    assert two is not None
    assert (two.drafts, two.acceptance_length, two.acceptance_at) == (800, 2.5, [0.8, 0.5, 0.2])
    without = drafts_of(Counted(counts={"draft_tokens": 1_200.0, "accepted_tokens": 300.0}))
    assert without is not None
    assert (without.acceptance_length, without.acceptance_rate, without.acceptance_at) == (None, 0.25, [])
    assert drafts_of(Counted(counts={"drafts": 0.0, "draft_tokens": 0.0})) is None


def test_drafts_that_are_never_accepted_are_told():
    found = speculation_of(Accumulator().add_all([drafted(0, [1] * 9)]), FACTS, Counted(counts=COUNTED.counts | {"accepted_tokens": 0.0}))
    assert found is not None
    assert (found.tokens_per_step and found.tokens_per_step.mean, found.drafts and found.drafts.acceptance_length) == (1.0, 1.0)


def test_usage_alone_tells_of_accepted_tokens():
    records = [drafted(index, [1] * 9, accepted_draft_tokens=6) for index in range(4)]
    found = speculation_of(Accumulator().add_all(records), FACTS, Counted())
    assert found is not None
    assert found.accepted_per_answer == 6
    assert speculation_rows({"speculation": msgspec.to_builtins(found)})[-1] == ["accepted draft tokens a response, by usage", "6"]


def test_nothing_is_said_of_streams_of_single_tokens():
    acc = Accumulator().add_all([drafted(index, [1] * 98 + [2]) for index in range(5)])
    assert speculation_of(acc, FACTS, Counted()) is None
    assert speculation_of(Accumulator(), FACTS, Counted()) is None
    assert (speculation_rows({"speculation": None}), speculation_sections({}, RunColumns(acc, FACTS))) == ([], [])


def test_the_page_shows_sizes_time_and_tpot_against_them():
    acc = Accumulator().add_all(run_of())
    found = speculation_of(acc, FACTS, COUNTED)
    assert found is not None
    assert found.tokens_per_step is not None
    low, high = found.tokens_per_step.ci95
    assert 1.7 < low < 2.0 < high < 2.3, "two tokens are what the draws bring on average"
    table, sizes, over_time, relation = speculation_sections({"speculation": msgspec.to_builtins(found)}, RunColumns(acc, FACTS))
    cells = {row[0]: row[1] for row in table.rows}
    assert cells["acceptance, by the engine"] == "length 2.50, rate 50.0% (600 of 1,200 draft tokens)"
    assert (cells["accepted at place 1"], cells["accepted at place 3"]) == ("80.0%", "20.0%")
    assert dict(zip(sizes.data[0]["x"], sizes.data[0]["y"], strict=True)) == pytest.approx({1: 50, 2: 25, 4: 25}, abs=4)
    assert np.allclose(over_time.data[0]["y"], found.tokens_per_step.mean, atol=0.6)
    dots = relation.data[0]
    assert np.allclose(dots["y"] * dots["x"], STEP_MS), "a step takes 20 ms, whatever it brings"
