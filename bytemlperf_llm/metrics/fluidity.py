"""Token deadlines and fluidity: how much of a response came in time for a reader who takes a token every TPOT target.

The fluidity-index of Etalon (Agrawal et al., "Etalon: Holistic Performance Evaluation Framework for LLM Inference Systems", arXiv
2407.07000, algorithm 1), with the service levels as deadlines. The first token has the TTFT target (without one it sets the clock, and
has no deadline), each other one TPOT's target after the deadline before. What comes early leaves slack to those after it. A token that
comes late has missed its own deadline and each one that passed until it came, and those after it count from when it came. The index is
1 − missed / deadlines.

Slack s, a token's time since the one before T, deadline D: s' = max(0, s + D − T), Lindley's recursion; so it is the running sum of D − T
less its running minimum, and lateness is what a new minimum lies below the one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column, Floats, total_of
from bytemlperf.statistics.metric import Metric, describe
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.metrics.blocks import Chunks
from bytemlperf_llm.metrics.facts import RunFacts, SloMs
from bytemlperf_llm.record.record import RequestRecord

FLUID = 0.9
"""From this index on a response is fluid (Etalon: the fluid token generation rate is what 99 % of responses carry so)."""
MILLIONTHS = 1e6
MOST_MISSED = float(1 << 40)  # by one token: sums stay whole numbers
PERCENTILES = ("1", "10", "50")
FORMULA = "1 − token deadlines missed / token deadlines, of a response; deadlines by the TTFT and TPOT targets, slack carried on (Etalon)"


class Fluidity(msgspec.Struct, frozen=True, kw_only=True):
    """`index` of the `responses` whose class has a TPOT target, `fluid_share` of them at 0.9 or more; `missed` of all token `deadlines`."""

    responses: int
    deadlines: int
    missed: int
    fluid_share: float
    index: Metric


class Targets:
    """The service levels of each class (None: of all), as deadlines; falsy where no TPOT is among them."""

    def __init__(self, facts: RunFacts) -> None:
        levels: dict[str | None, SloMs] = {each.name: each.slo_ms.finite() for each in facts.classes} or {None: facts.slo_ms.finite()}
        self._levels = {name: slo for name, slo in levels.items() if slo.tpot is not None}
        self._of_classes = bool(facts.classes)

    def __bool__(self) -> bool:
        return bool(self._levels)

    def of(self, records: Sequence[RequestRecord]) -> tuple[Floats, Floats]:
        """TTFT and TPOT targets of each in ns, NaN for none."""
        names = [record.class_name if self._of_classes else None for record in records]
        none = SloMs()
        slos = [self._levels.get(name, none) for name in names]
        return tuple(  # type: ignore[return-value]
            numpy.array([numpy.nan if limit is None else limit * NS_PER_MS for limit in limits])
            for limits in ([slo.ttft for slo in slos], [slo.tpot for slo in slos])
        )


def missed_deadlines(chunks: Chunks, due_ns: Column, first_ns: Floats, each_ns: Floats) -> tuple[Column, Column]:
    """Token deadlines of requests and those missed, ABSENT for one without tokens or a TPOT target. `due_ns` are t0, ABSENT where there is
    none; `first_ns` and `each_ns` the targets."""
    counts = numpy.diff(chunks.edges)
    judged = (counts > 0) & ~numpy.isnan(each_ns)
    deadlines, missed = (numpy.full(len(counts), ABSENT, "i8") for _ in range(2))
    if judged.any():
        kept = numpy.repeat(judged, counts)
        several = numpy.ones(len(kept), "i8") if chunks.tokens is None else chunks.tokens
        flat = chunks.stamps[kept].astype("f8"), several[kept], counts[judged]
        deadlines[judged], missed[judged] = _counted(*flat, due_ns[judged], first_ns[judged], each_ns[judged])
    return deadlines, missed


def _counted(stamps: Floats, tokens: Column, counts: Column, due_ns: Column, first_ns: Floats, each_ns: Floats) -> tuple[Column, Column]:
    heads, pace = numpy.cumsum(counts) - counts, numpy.repeat(each_ns, counts)
    timed = (due_ns != ABSENT) & ~numpy.isnan(first_ns)
    left = pace - numpy.diff(stamps, prepend=0.0)  # of its deadline, by a chunk's first token
    left[heads] = numpy.where(timed, first_ns - (stamps[heads] - due_ns), 0.0)
    late = _lateness(left, (tokens - 1) * pace, heads, counts)
    missed = numpy.where(late > 0, numpy.minimum(1 + late // pace, MOST_MISSED), 0)
    deadlines = numpy.where(late > 0, missed, 1) + tokens - 1
    deadlines[heads] -= ~timed
    return numpy.add.reduceat(deadlines, heads).astype("i8"), numpy.add.reduceat(missed, heads).astype("i8")


def _lateness(left: Floats, added: Floats, heads: Column, counts: Column) -> Floats:
    """By how much each chunk is late, 0 where it isn't: `added` is what its other tokens leave to those after it."""
    both = numpy.stack((left, added), axis=1).ravel()
    sums = numpy.cumsum(both)
    sums -= numpy.repeat(sums[2 * heads] - left[heads], 2 * counts)
    apart = numpy.repeat(numpy.arange(len(heads)) * (sums.max() - sums.min() + 1.0), 2 * counts)
    least = numpy.minimum(numpy.minimum.accumulate(sums - apart) + apart, 0.0)  # each request lies below all before it
    fell = -numpy.diff(least, prepend=0.0)
    fell[2 * heads] = -least[2 * heads]
    return numpy.maximum(fell[0::2], 0.0)


def fluidity_of(columns: Mapping[str, Column], rows: Column) -> Fluidity | None:
    """From the columns of an accumulator, of these rows; None where none of them has a deadline."""
    if "deadlines" not in columns:
        return None
    rows = rows[columns["deadlines"][rows] > 0]
    deadlines, missed = columns["deadlines"][rows], columns["missed"][rows]
    if not len(rows):
        return None
    index = 1 - missed / deadlines
    metric = describe(numpy.rint(index * MILLIONTHS).astype("i8"), "", FORMULA, PERCENTILES)
    assert metric is not None
    return Fluidity(
        responses=len(deadlines),
        deadlines=total_of(deadlines),
        missed=total_of(missed),
        fluid_share=float((index >= FLUID).mean()),
        index=metric.divided(MILLIONTHS),
    )
