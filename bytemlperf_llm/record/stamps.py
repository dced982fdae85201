"""Loops over the stamps of one answer: compiled where they could be (_stamps.c), else in Python. Both
give the same."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from importlib.util import find_spec

from bytemlperf_llm.metrics.definitions import TokenTimes, bursts_of, chunk_gaps_ns, token_runs_ns

COMPILED_MODULES = ("engines.http._stream", "bytemlperf_llm._stamps")


def compiled() -> bool:
    """Whether the loops that run once per token are compiled here; without, a token costs the client more."""
    return all(find_spec(name) is not None for name in COMPILED_MODULES)


def python_since(stamps: list[int], origin_ns: int) -> list[int]:
    """Stamps counted from an origin, ns."""
    return [stamp - origin_ns for stamp in stamps]


def python_bin_intervals(
    stamps: list[int], tokens: list[int], bounds: array[int], counts: array[int], burst_ns: int
) -> tuple[int, int] | None:
    """Add an answer's intervals between tokens (`definitions.token_runs_ns`: chunks at most `burst_ns` apart share
    their time) to a histogram with these upper bounds, ns, the last count being for what is beyond them all. The
    first and the last token's stamps; None without tokens."""
    kept = [(stamp, many) for stamp, many in zip(stamps, tokens, strict=False) if many > 0]
    if not kept:
        return None
    times = TokenTimes(stamps_ns=[stamp for stamp, _ in kept], tokens=[many for _, many in kept])
    for gap, count in zip(*token_runs_ns(bursts_of(times, chunk_gaps_ns(times), burst_ns)), strict=True):
        counts[bisect_left(bounds, gap)] += count
    return times.stamps_ns[0], times.stamps_ns[-1]


try:
    from bytemlperf_llm._stamps import bin_intervals as bin_intervals
    from bytemlperf_llm._stamps import since as since
except ImportError:  # no compiler where this was installed
    bin_intervals, since = python_bin_intervals, python_since
