"""What is known of each answered request, as aligned columns: the ground on which the rules stand.

Rows are the answers of at least one token in the order of their due times; times are ms from the run's origin. What a run doesn't tell is
None (stages of an engine that stamps none, gauges of a server that has none). A million requests of 128 tokens cost some seconds: token
gaps are walked once, and only those far beyond the usual pace are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import ABSENT, Column, Floats, Mask
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.causes.fits import Fit, fit
from bytemlperf_llm.causes.spans import Spans, level_at
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.definitions import STAGES
from bytemlperf_llm.metrics.load import waits_in_client
from bytemlperf_llm.record.gauges import Sample

LONG_GAP = 5.0
"""A silence of more than so many times the median one may be a pause."""
SILENT_SHARE, LEAST_SILENT = 0.5, 2
"""The server stands still where at least half of the open streams, two at least, are in a long silence."""
FULL = 0.9
"""Share of the KV cache from which on it counts as full."""
LONG_PREFILL = 2.0
"""A prefill of more than so many times the median silence is a long one."""
ROWS = 20_000
"""Slopes and redraws take every n-th request of a longer run, about so many: more change no digit that is shown."""
QUICKEST = 0.01
"""The quantile of requests that had nothing to wait for."""
BY_CHANCE, TAKING_IN = 0.001, 0.5
"""Requests stop the server where more than half of the stops that needn't have met a waiting one by chance did."""
LEAST_TRIPS = 5
"""Connections that show what is usual."""
SURE = 0.5
"""A slope is known where its interval reaches no further than this share of it to either side."""
USUAL_TRIP = 0.25
"""The quantile of round trips that is the way's own length."""
_BLOCK_CLUSTERS = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Columns of one length, and series of their own times. `late`: the client's own delay; `capped`: the wait for one of the
    client's slots. `prompt`: tokens to be prefilled, without cached ones; None where any isn't known. `round_trips`: moments and ms."""

    due: Floats
    sent: Floats
    first: Floats
    last: Floats
    output: Floats
    late: Floats
    capped: Floats
    prompt: Floats | None
    stages: dict[str, Floats] | None
    silences: tuple[Floats, Floats, Column]  # begins and ends of the long ones, and whose
    pace: float  # median gap between tokens
    samples: Sequence[Sample] = ()
    round_trips: tuple[Floats, Floats] | None = None

    def __len__(self) -> int:
        return len(self.sent)

    @cached_property
    def ttft(self) -> Floats:
        return self.first - self.due

    @cached_property
    def pending(self) -> Floats:
        """How many others were sent and had no token yet when each request was sent."""
        return numpy.maximum(level_at(self.sent, self.sent, self.first) - 1.0, 0.0)

    @cached_property
    def running(self) -> Floats:
        """How many streams were being decoded when each request was sent."""
        return level_at(self.sent, self.first, self.last).astype("f8")

    @cached_property
    def pending_tokens(self) -> Floats:
        """Prompt tokens of those pending; 0 where prompts aren't known."""
        if self.prompt is None:
            return numpy.zeros(len(self))
        by_sent, by_first = (numpy.argsort(times, kind="stable") for times in (self.sent, self.first))
        sent_upto, first_upto = (numpy.concatenate([[0.0], numpy.cumsum(self.prompt[order])]) for order in (by_sent, by_first))
        sent = sent_upto[numpy.searchsorted(self.sent[by_sent], self.sent, "left")]
        tokens: Floats = sent - first_upto[numpy.searchsorted(self.first[by_first], self.sent, "right")]
        return numpy.maximum(tokens, 0.0)

    @cached_property
    def still(self) -> Spans:
        """When the server stood still."""
        begins, ends, _ = self.silences
        knots = numpy.unique(numpy.concatenate([begins, ends]))
        silent, streams = level_at(knots, begins, ends), level_at(knots, self.first, self.last)
        still = numpy.flatnonzero(silent >= numpy.maximum(LEAST_SILENT, SILENT_SHARE * streams))
        still = still[still + 1 < len(knots)]
        return Spans(knots[still], knots[still + 1]).longer_than(LONG_GAP * self.pace)

    @cached_property
    def prefill_line(self) -> Fit:
        """Ms of prefill over a request's own prompt tokens: as the engine stamps it, else of TTFT, beside how much was ahead."""
        own = numpy.zeros(len(self)) if self.prompt is None else self.prompt
        others = (self.pending_tokens, self.pending) if self.stages is None else ()
        took = self.ttft - self.late - self.capped if self.stages is None else self.stages["stage_prefill"]
        return fit(*(column[:: step_of(len(self))] for column in (took, own, *others)))

    @cached_property
    def ms_per_prompt_token(self) -> float:
        """Its slope; 0 where it isn't known within `SURE` of itself. At most what the quickest requests allow, whose time in the server
        holds all of their prefill, and what the whole run does, in which every prompt was prefilled."""
        slope = float(self.prefill_line.slopes[0])
        if self.prompt is None or slope <= 0:
            return 0.0
        low, high = self.prefill_line.bounds()
        if high - low > 2 * SURE * slope:
            return 0.0
        quickest = float(numpy.quantile((self.first - self.sent) / numpy.maximum(self.prompt, 1.0), QUICKEST))
        return min(slope, quickest, float(self.last.max() - self.sent.min()) / float(self.prompt.sum()))

    @property
    def long_prompt(self) -> float:
        """Tokens from which on a prompt's prefill is a long one."""
        slope = self.ms_per_prompt_token
        return LONG_PREFILL * self.pace / slope if slope > 0 else float("inf")

    @cached_property
    def windows(self) -> Spans:
        """When long prompts were prefilled: up to their first tokens, one after the other, each as long as the slope says."""
        if self.prompt is None or not self.ms_per_prompt_token:
            return Spans(numpy.zeros(0), numpy.zeros(0))
        long = numpy.flatnonzero(self.prompt > self.long_prompt)
        long = long[numpy.argsort(-self.first[long], kind="stable")]
        took, windows, upto = self.ms_per_prompt_token * self.prompt[long], [], float("inf")
        for first, sent, ms in zip(self.first[long].tolist(), self.sent[long].tolist(), took.tolist(), strict=True):
            end = min(first, upto)
            upto = min(upto, max(end - ms, sent))
            windows.append((upto, max(end, upto)))
        begins, ends = numpy.array(windows or numpy.zeros((0, 2))).T
        return Spans(begins, ends)

    @cached_property
    def slow_way(self) -> Spans:
        """When connections took longer to open than usual by a long silence; what looks like a pause then need not be the server's."""
        if self.round_trips is None:
            return Spans(numpy.zeros(0), numpy.zeros(0))
        times, took = self.round_trips
        slow = took > float(numpy.quantile(took, USUAL_TRIP)) + LONG_GAP * self.pace
        before, after = numpy.append(times[0], times[:-1]), numpy.append(times[1:], times[-1])
        return Spans(before[slow], after[slow])

    @cached_property
    def stops(self) -> Spans:
        """When the server stood still, and neither a prefill by its tokens nor the network explains it."""
        return self.still.without(self.windows).without(self.slow_way).longer_than(LONG_GAP * self.pace)

    @cached_property
    def _taking_in(self) -> Mask:
        """Which stops began with a request waiting to be taken in: all such ones where that is far more often so than at other moments
        (by Chernoff's bound), which it is where taking one in is what stops the server; else none."""
        stops, waiting = self.stops, Spans(self.sent, self.first)
        met = waiting.hold(stops.begins)
        others = waiting.without(stops).total / max(float(self.last.max() - self.sent.min()) - stops.total, 1e-6)
        usual, share = min(max(others, 1e-3), 1.0), min(float(met.mean()), 1 - 1e-9) if len(met) else 0.0
        if share <= usual:
            return met & False
        apart = share * log(share / usual) + (1 - share) * log((1 - share) / (1 - usual))
        chance_alone = exp(-len(met) * apart) > BY_CHANCE or share - usual < TAKING_IN * (1 - usual)
        return met & (not chance_alone)

    @cached_property
    def taken_in(self) -> Spans:
        """The stops in which the server took requests in."""
        return Spans(self.stops.begins[self._taking_in], self.stops.ends[self._taking_in])

    @cached_property
    def paused(self) -> Spans:
        """All other stops."""
        return Spans(self.stops.begins[~self._taking_in], self.stops.ends[~self._taking_in])

    def mean_running(self, begins: Floats, ends: Floats) -> Floats:
        """How many streams were being decoded over each stretch, in the mean."""
        knots = numpy.sort(numpy.concatenate([self.first, self.last]))
        level = level_at(knots, self.first, self.last)
        area = numpy.concatenate([[0.0], numpy.cumsum(level[:-1] * numpy.diff(knots))])
        mean: Floats = (numpy.interp(ends, knots, area) - numpy.interp(begins, knots, area)) / numpy.maximum(ends - begins, 1e-6)
        return mean

    @cached_property
    def full(self) -> Spans | None:
        """When the KV cache was full; a sample holds half-way to its neighbours. None where the server doesn't say."""
        told = self._gauge("kv_cache_usage")
        if told is None:
            return None
        times, usage = told
        middle, full = (times[1:] + times[:-1]) / 2, usage > FULL
        return Spans(numpy.append(times[0], middle)[full], numpy.append(middle, times[-1])[full])

    def preempted_more(self) -> bool:
        """Whether the server preempted more often while its KV cache was full."""
        told = self._gauge("preemptions")
        if told is None or self.full is None:
            return False
        times, count = told
        grown, spans = numpy.maximum(numpy.diff(count), 0), numpy.diff(times)
        inside = self.full.within(times[:-1], times[1:]) > spans / 2
        while_full, otherwise = (grown[part].sum() / max(float(spans[part].sum()), 1e-6) for part in (inside, ~inside))
        return bool(while_full > otherwise)

    def _gauge(self, name: str) -> tuple[Floats, Floats] | None:
        """Moments, and the greatest value then of the gauges of that name, those of several roles among them; None under two."""
        told = []
        for sample in self.samples:
            values = [value for gauge, value in sample.gauges.items() if gauge == name or gauge.endswith(f"_{name}")]
            if values:
                told.append((sample.at_ns / NS_PER_MS, max(values)))
        if len(told) < 2:
            return None
        times, values = numpy.array(sorted(told)).T
        return times, values


def step_of(rows: int) -> int:
    """Every how many of so many rows are taken where `ROWS` do."""
    return max(1, rows // ROWS)


def evidence_of(
    acc: Accumulator, cap: int | None, samples: Sequence[Sample] = (), connects: Sequence[tuple[int, int]] = ()
) -> Evidence | None:
    """Of a run's columns, `cap`, the client's limit of requests in flight, the server's gauges, and connections that were opened meanwhile
    (when, and how long it took, ns); None where no tokens came."""
    rows = acc.rows("ok")
    for name in ("first", "due", "sent"):
        rows = rows[acc.columns[name][rows] != ABSENT]
    if not len(rows):
        return None
    of = {name: acc.columns[name][rows] for name in ("due", "sent", "first", "last", "output", "prompt", "cached", *STAGES)}
    times = {name: of[name] / NS_PER_MS for name in ("due", "sent", "first", "last")}
    late, capped = (waits[rows] / NS_PER_MS for waits in waits_in_client(acc, cap))
    prompt = None if (of["prompt"] == ABSENT).any() else of["prompt"] - numpy.maximum(of["cached"], 0)
    told = all((of[name] != ABSENT).all() for name in STAGES)
    stages = {name: numpy.maximum(of[name], 0) / NS_PER_MS for name in STAGES} if told else None
    silences, pace = _long_silences(acc, rows)
    return Evidence(
        **times,
        output=of["output"].astype("f8"),
        late=late,
        capped=capped,
        prompt=None if prompt is None else numpy.maximum(prompt, 0).astype("f8"),
        stages=stages,
        silences=silences,
        pace=pace,
        samples=samples,
        round_trips=_round_trips(connects),
    )


def _round_trips(connects: Sequence[tuple[int, int]]) -> tuple[Floats, Floats] | None:
    if len(connects) < LEAST_TRIPS:
        return None
    times, took = numpy.array(sorted(connects), "f8").T / NS_PER_MS
    return times, took


def _long_silences(acc: Accumulator, rows: Column) -> tuple[tuple[Floats, Floats, Column], float]:
    """Begins and ends (ms) of the gaps between tokens far beyond the median one, whose they are (places in `rows`), and the median (ms).

    Tokens of a burst share its time: after a silence in which the server went on they come together, and it is none.
    """
    gaps, first = acc.itl, acc.columns["first"]
    if not len(gaps):
        return (numpy.zeros(0), numpy.zeros(0), numpy.zeros(0, "i8")), 0.0
    ordered = gaps.ordered()
    median = ordered[len(ordered) // 2]
    place = numpy.full(len(acc), -1, "i8")
    place[rows] = numpy.arange(len(rows))
    parts: list[tuple[Floats, Floats, Column]] = []
    for begin in range(0, len(gaps.rows), _BLOCK_CLUSTERS):
        end = min(begin + _BLOCK_CLUSTERS, len(gaps.rows))
        values, counts = gaps.runs(begin, end)
        begins = gaps.begins(begin, end)
        long = numpy.flatnonzero(values > LONG_GAP * median)
        upto = numpy.cumsum(values * counts)
        whose = numpy.searchsorted(begins, long, "right") - 1
        before = numpy.concatenate([[0], upto])[begins]
        stamps = upto[long] - before[whose] + first[gaps.rows[begin:end]][whose]
        at = place[gaps.rows[begin:end]][whose]
        parts.append(((stamps - values[long]) / NS_PER_MS, stamps / NS_PER_MS, at))
    begins_ms, ends_ms, whose = (numpy.concatenate(columns) for columns in zip(*parts, strict=True))
    kept = whose >= 0
    return (begins_ms[kept], ends_ms[kept], whose[kept]), median / NS_PER_MS
