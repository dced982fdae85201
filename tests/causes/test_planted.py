"""Planted causes are named first, and none where there is none: some seeds of benchmarks/causes.py."""

from __future__ import annotations

import pytest

from benchmarks.causes import judged, named_first
from benchmarks.intervals import SERVERS
from benchmarks.planted import CLEAN, PLANTS, Run, run_of, server_with
from benchmarks.simulated import run_of as other_run_of

SEEDS = (200, 201, 202)


@pytest.mark.parametrize("cause", [*PLANTS, CLEAN])
def test_the_planted_cause_is_named_first(cause):
    assert [named_first(judged(run_of(server_with(cause, seed), seed))) for seed in SEEDS] == [cause] * len(SEEDS)


def test_a_server_that_stops_for_each_prefill_is_told_from_one_that_pauses_though_all_prompts_are_alike():
    served = SERVERS["open loop, bursts"]
    causes = judged(Run(other_run_of(served, 200), [], []))
    assert named_first(causes) == "prefill"
    assert causes.sentence.startswith("Taking in a request stops all others: ")
