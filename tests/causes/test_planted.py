"""Planted causes are named first, and none where there is none: some seeds of benchmarks/causes.py."""

from __future__ import annotations

import pytest

from benchmarks.causes import judged, named_first
from benchmarks.planted import CLEAN, PLANTS, run_of, server_with

SEEDS = (200, 201, 202)


@pytest.mark.parametrize("cause", [*PLANTS, CLEAN])
def test_the_planted_cause_is_named_first(cause):
    assert [named_first(judged(run_of(server_with(cause, seed), seed))) for seed in SEEDS] == [cause] * len(SEEDS)
