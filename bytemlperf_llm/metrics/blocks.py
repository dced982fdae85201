"""What consecutive records' chunks come to, of all of them at once: their stamps are laid out flat, and gaps, token intervals and largest
gaps computed together. Stamps and tokens have the bounds of `record.RequestRecord`, so that no difference or sum leaves 64 bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from bytemlperf.lazy import numpy
from bytemlperf.statistics.clusters import ClusteredColumn
from bytemlperf.statistics.columns import ABSENT, Column
from bytemlperf_llm.metrics.definitions import BURST_NS
from bytemlperf_llm.record.record import RequestRecord

BLOCK_RECORDS = 256
BLOCK_STAMPS = 1 << 18


class Runs(NamedTuple):
    """Values of requests in their order, flat: how many `runs` each request has, how often each run's value
    comes (None: once), and how many values and what total that is for each request."""

    values: Column
    counts: Column | None
    runs: Column
    lengths: Column
    sums: Column

    def add_to(self, clusters: ClusteredColumn, row: int, ok: Column) -> None:
        """Append the clusters of the answers among the requests, whose first row is `row`."""
        kept = ok & (self.runs > 0)
        chosen = numpy.repeat(kept, self.runs)
        counts = None if self.counts is None else self.counts[chosen]
        clusters.add(numpy.nonzero(kept)[0] + row, self.values[chosen], counts, *(each[kept] for each in self[2:]))


class Chunks(NamedTuple):
    """Token-carrying chunks of requests, flat: their stamps and tokens (None: one each), and where each request's begin and end."""

    stamps: Column
    tokens: Column | None
    edges: Column


class Block(NamedTuple):
    """What records' `flat` chunks come to: the requests' ITL and silences between bursts. Requests without a token have ABSENT
    for `first`, `last`; without a gap for `max_gap` and the stamp at its end. `steps` are the tokens of each burst after a request's first,
    flat, as many as it has silences (None: one each)."""

    first: Column
    last: Column
    chunks: Column
    seen: Column
    batched: Column
    max_gap: Column
    max_gap_end: Column
    silences: Runs
    intervals: Runs
    steps: Column | None
    flat: Chunks

    def step_tokens(self) -> Column:
        """Of each request, in bursts after its first."""
        lengths = self.silences.lengths
        return lengths if self.steps is None else _sums(self.steps, _edges(lengths))


def blocks_of(records: Iterable[RequestRecord]) -> Iterator[list[RequestRecord]]:
    """Consecutive records, so many at a time that their stamps fit into a cache."""
    block: list[RequestRecord] = []
    stamps = 0
    for record in records:
        block.append(record)
        stamps += len(record.chunk_ns)
        if len(block) >= BLOCK_RECORDS or stamps >= BLOCK_STAMPS:
            yield block
            block, stamps = [], 0
    if block:
        yield block


def block_of(records: Sequence[RequestRecord]) -> Block:
    """See Block."""
    stamps, tokens, counts = _flat(records)
    edges = _edges(counts)
    starts, filled = edges[:-1], counts > 0
    first, last = (numpy.full(len(counts), ABSENT, "i8") for _ in range(2))
    first[filled], last[filled] = stamps[starts[filled]], stamps[edges[1:][filled] - 1]
    spans = numpy.where(filled, last - first, 0)
    after_first = numpy.ones(len(stamps), bool)
    after_first[starts[filled]] = False
    gaps = numpy.where(after_first, numpy.diff(stamps, prepend=0), 0)
    gap_counts = numpy.maximum(counts - 1, 0)
    between = gaps[after_first]
    max_gap, max_gap_end = _largest(between, stamps[after_first], gap_counts)
    if tokens is None and (not len(between) or int(between.min()) > BURST_NS):
        alone = Runs(between, None, gap_counts, gap_counts, spans)
        return Block(
            first,
            last,
            counts,
            counts,
            numpy.zeros(len(counts), "i8"),
            max_gap,
            max_gap_end,
            alone,
            alone,
            None,
            Chunks(stamps, None, edges),
        )
    seen = counts if tokens is None else _sums(tokens, edges)
    silences, intervals, batched, steps = _bursts(gaps, numpy.ones(len(stamps), "i8") if tokens is None else tokens, after_first, edges)
    intervals = intervals._replace(lengths=numpy.maximum(seen - 1, 0), sums=spans)
    return Block(first, last, counts, seen, batched, max_gap, max_gap_end, silences, intervals, steps, Chunks(stamps, tokens, edges))


def _flat(records: Sequence[RequestRecord]) -> tuple[Column, Column | None, Column]:
    """Stamps of all chunks that carry a token; the chunks' tokens, None where all carry one; how many chunks each request has."""
    if all(record.tokens_per_chunk.count(1) == len(record.tokens_per_chunk) == len(record.chunk_ns) for record in records):
        counts = numpy.array([len(record.chunk_ns) for record in records], "i8")
        return _ints((record.chunk_ns for record in records), counts), None, counts
    both = [min(len(record.chunk_ns), len(record.tokens_per_chunk)) for record in records]
    lengths = numpy.array(both, "i8")
    stamps = _ints((record.chunk_ns[:length] for record, length in zip(records, both, strict=True)), lengths)
    tokens = _ints((record.tokens_per_chunk[:length] for record, length in zip(records, both, strict=True)), lengths)
    carries = tokens > 0
    return stamps[carries], tokens[carries], _sums(carries, _edges(lengths))


def _ints(values: Iterable[Sequence[int]], counts: Column) -> Column:
    return numpy.fromiter(chain.from_iterable(values), "i8", int(counts.sum()))


def _edges(counts: Column) -> Column:
    return numpy.concatenate(([0], numpy.cumsum(counts)))


def _sums(values: Column, edges: Column) -> Column:
    """Per request; none is 0."""
    return numpy.diff(_edges(values)[edges])


def _bursts(gaps: Column, tokens: Column, after_first: Column, edges: Column) -> tuple[Runs, Runs, Column, Column]:
    """`definitions.bursts_of` and `token_runs_ns` of many requests: silences before their bursts, intervals (without
    their lengths and sums), how many tokens of each came in bursts of several, and `Block.steps`. `gaps` are 0 before a first chunk."""
    begins = ~after_first | (gaps > BURST_NS)
    at = numpy.flatnonzero(begins)
    bursts = _sums(begins, edges)
    shared, of_burst = (numpy.add.reduceat(values, at) if len(at) else values for values in (gaps, tokens))
    intervals = of_burst - ~after_first[at]
    share, rest = numpy.divmod(shared, numpy.maximum(intervals, 1))
    values, counts = (numpy.stack(pair, axis=1).ravel() for pair in ((share + 1, share), (rest, intervals - rest)))
    filled = counts > 0
    runs = _sums(filled, 2 * _edges(bursts))
    lengths, silences = numpy.maximum(bursts - 1, 0), gaps[begins & after_first]
    several = _sums(numpy.where(of_burst > 1, of_burst, 0), _edges(bursts))
    between = Runs(silences, None, lengths, lengths, _sums(silences, _edges(lengths)))
    return between, Runs(values[filled], counts[filled], runs, runs, runs), several, of_burst[after_first[at]]


def _largest(values: Column, ends: Column, counts: Column) -> tuple[Column, Column]:
    """The largest value of each request and the end of the first such one, ABSENT where it has none."""
    largest, largest_end = (numpy.full(len(counts), ABSENT, "i8") for _ in range(2))
    some = counts > 0
    if some.any():
        largest[some] = numpy.maximum.reduceat(values, _edges(counts)[:-1][some])
        request = numpy.repeat(numpy.arange(len(counts)), counts)
        at = numpy.flatnonzero(values == largest[request])
        requests, first = numpy.unique(request[at], return_index=True)
        largest_end[requests] = ends[at[first]]
    return largest, largest_end
