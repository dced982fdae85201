"""Loops over the stamps of one answer: compiled where they could be (_stamps.c), else in Python. Both
give the same."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from importlib.util import find_spec
from itertools import chain, repeat
from operator import sub

COMPILED_MODULES = ("engines._stream", "bytemlperf_llm._stamps")


def compiled() -> bool:
    """Whether the loops that run once per token are compiled here; without, a token costs the client more."""
    return all(find_spec(name) is not None for name in COMPILED_MODULES)


def python_since(stamps: list[int], origin_ns: int) -> list[int]:
    """Stamps counted from an origin, ns."""
    return [stamp - origin_ns for stamp in stamps]


def python_bin_gaps(stamps: list[int], tokens: list[int], bounds: array[int], counts: array[int]) -> tuple[int, int] | None:
    """Add the gaps between an answer's tokens (ns; 0 between those of one chunk) to a histogram with
    these upper bounds, the last count being for what is beyond them all. The first and the last token's
    stamps; None without tokens."""
    token_ns = list(chain.from_iterable(map(repeat, stamps, tokens)))
    if not token_ns:
        return None
    gaps = sorted(map(sub, token_ns[1:], token_ns))
    below = 0
    for place, bound in enumerate(bounds):
        if below == len(gaps):
            break
        upto = bisect_left(gaps, bound + 1, below)
        counts[place] += upto - below
        below = upto
    counts[-1] += len(gaps) - below
    return token_ns[0], token_ns[-1]


try:
    from bytemlperf_llm._stamps import bin_gaps as bin_gaps
    from bytemlperf_llm._stamps import since as since
except ImportError:  # no compiler where this was installed
    bin_gaps, since = python_bin_gaps, python_since
