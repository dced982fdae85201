"""The loops over stamps: compiled and in Python they say the same, and what they should."""

from __future__ import annotations

import random
from array import array
from itertools import pairwise

import pytest

from bytemlperf_llm import stamps

try:
    from bytemlperf_llm import _stamps as compiled
except ImportError:
    compiled = None

BOUNDS = array("q", [0, 5, 10, 100])


@pytest.fixture(params=["compiled", "python"])
def loops(request):
    if request.param == "python":
        return stamps.python_since, stamps.python_bin_gaps
    if compiled is None:
        pytest.skip("bytemlperf_llm/_stamps.c was not compiled here")
    return compiled.since, compiled.bin_gaps


def test_since(loops):
    assert loops[0]([5, 7, 1 << 62], 5) == [0, 2, (1 << 62) - 5]
    assert loops[0]([], 5) == []


def test_gaps_fall_into_the_bucket_whose_bound_they_reach(loops):
    counts = array("q", [0] * 5)
    assert loops[1]([1, 1, 6, 7, 17, 200, 300], [0, 1, 1, 1, 1, 1, 1], BOUNDS, counts) == (1, 300)
    assert counts.tolist() == [0, 2, 1, 1, 1]


def test_tokens_of_one_chunk_arrive_together(loops):
    counts = array("q", [0] * 5)
    assert loops[1]([10, 20], [3, 2], BOUNDS, counts) == (10, 20)
    assert counts.tolist() == [3, 0, 1, 0, 0]


def test_no_tokens(loops):
    counts = array("q", [0] * 5)
    assert loops[1]([10, 20], [0, 0], BOUNDS, counts) is None
    assert loops[1]([], [], BOUNDS, counts) is None
    assert counts.tolist() == [0] * 5


def test_any_answer_equals_a_naive_count(loops):
    draw = random.Random(3)
    for _ in range(300):
        chunks = draw.randrange(30)
        times = sorted(draw.randrange(400) for _ in range(chunks))
        tokens = [draw.choice((0, 1, 1, 2, 5)) for _ in range(chunks)]
        each = [stamp for stamp, many in zip(times, tokens, strict=True) for _ in range(many)]
        gaps = [b - a for a, b in pairwise(each)]
        expected = [sum(low < gap <= high for gap in gaps) for low, high in pairwise([-1, *BOUNDS, 1 << 40])]
        counts = array("q", [0] * 5)
        ends = loops[1](times, tokens, BOUNDS, counts)
        assert counts.tolist() == expected
        assert ends == ((each[0], each[-1]) if each else None)
