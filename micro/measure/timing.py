"""Timing one kernel: inner loops, warm-up, a stopping rule, and what the samples say.

    calls  ← as many calls in a row that reading the timer costs at most 1e-4 of them
    until the median of the last window equals that of the window before, or the warm-up's budget ends:
        run a sample, throw it away
    until the median's 95 % interval is narrower than 1 % of it, or the budget ends:
        keep a sample: the time of `calls` calls, each on the next set of buffers

A sample's latency is its time over its calls. Decisions are classes that are fed samples; the clock
is a `Stopwatch`, so that tests feed both. On GPUs the same code runs on CUDA events around the calls,
captured as a CUDA graph where the kernel allows it; a graph has its buffers built in, so that one
sample is then a whole number of turns through all of them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import cycle, islice
from statistics import median
from time import perf_counter_ns
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import msgspec

from bytemlperf.lazy import torch
from bytemlperf.report.text import counted
from bytemlperf.statistics.metric import Metric, describe
from bytemlperf.statistics.statistics import (
    INSUFFICIENT,
    Interval,
    autocorrelation_factor,
    effective_interval,
    order_interval,
    percentile,
)
from bytemlperf.units import NS_PER_S, NS_PER_US
from micro.operators.contract import Run, Tensors

if TYPE_CHECKING:
    from torch.cuda import CUDAGraph

TIMER_SHARE = 1e-4
"""The timer's own cost, at most, as a share of what it times."""

MAX_CALLS = 1 << 20
HALF = Fraction(1, 2)
PERCENTILES = ("10", "50", "90", "99")
DRIFT_SHARE = 0.02
"""Last third against first third of the samples: beyond this, and beyond both intervals, they drift."""


class Stopwatch(Protocol):
    """A clock that times calls. `overhead_ns` is what reading it twice costs."""

    overhead_ns: float

    def now_ns(self) -> int:
        """Host time, for budgets."""

    def time_ns(self, run: Run, arguments: Sequence[Tensors]) -> int:
        """One call for each tuple of arguments, one after the other, finished: nanoseconds in all."""


class CpuStopwatch:
    """`perf_counter_ns` around a plain loop."""

    def __init__(self) -> None:
        gaps = []
        for _ in range(1000):
            start = perf_counter_ns()
            gaps.append(perf_counter_ns() - start)
        self.overhead_ns = float(max(1, median(gaps)))
        self.now_ns = perf_counter_ns

    def time_ns(self, run: Run, arguments: Sequence[Tensors]) -> int:
        """As the Protocol says."""
        start: int = perf_counter_ns()
        for inputs in arguments:
            run(*inputs)
        return perf_counter_ns() - start


class CudaStopwatch:
    """CUDA events around a CUDA graph of the calls, or around the calls where the kernel can't be captured.

    `cuda` is torch.cuda, or what stands for it in a test. Events tick in about half a microsecond and
    wait for nothing; the host waits once per sample. In a graph the host's launches are gone.
    """

    EVENT_TICK_NS = 500.0

    def __init__(self, cuda: ModuleType, *, graphs: bool = True) -> None:
        self._cuda, self._graphs = cuda, graphs
        self._captured: tuple[Run, list[Tensors], CUDAGraph] | None = None
        self.overhead_ns = self.EVENT_TICK_NS
        self.now_ns = perf_counter_ns

    def time_ns(self, run: Run, arguments: Sequence[Tensors]) -> int:
        """As the Protocol says."""
        graph = self._graph(run, arguments) if self._graphs else None
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        if graph is not None:
            graph.replay()
        else:
            for inputs in arguments:
                run(*inputs)
        end.record()
        end.synchronize()
        elapsed_ns: int = round(start.elapsed_time(end) * 1e6)
        return elapsed_ns

    @property
    def graph(self) -> bool:
        """Whether calls are replayed from graphs."""
        return self._graphs

    def _graph(self, run: Run, arguments: Sequence[Tensors]) -> CUDAGraph | None:
        """The graph of these very calls on these very buffers; the last one is kept."""
        if self._captured is not None:
            captured, buffers, graph = self._captured
            if (captured, *map(id, buffers)) == (run, *map(id, arguments)):
                return graph
        self._captured = None  # a graph holds its memory
        run(*arguments[0])  # what a kernel allocates or compiles at its first call can't be captured
        self._cuda.synchronize()
        graph = self._cuda.CUDAGraph()
        try:
            with self._cuda.graph(graph):
                for inputs in arguments:
                    run(*inputs)
        except RuntimeError:  # it synchronises, or its shapes depend on data
            self._graphs = False
            return None
        self._captured = run, list(arguments), graph
        return graph


def stopwatch_of(device: str, *, graphs: bool = True) -> Stopwatch:
    """The one of a device: "cpu", or a kind of accelerator and its number."""
    kind = device.partition(":")[0]
    return CpuStopwatch() if kind == "cpu" else CudaStopwatch(getattr(torch, kind), graphs=graphs)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How long to look. `precision` is the interval's width over the median; `max_samples` 0 only checks the result."""

    warm_up_s: float = 1.0
    budget_s: float = 2.0
    precision: float = 0.01
    min_samples: int = 20
    max_samples: int = 5000


class Stationary:
    """Warm-up is over when two windows in a row have medians within 2 % of each other."""

    WINDOW = 5
    SHARE = 0.02

    def __init__(self) -> None:
        self._samples: list[int] = []

    def feed(self, sample_ns: int) -> bool:
        """Takes one sample; whether that is enough."""
        self._samples.append(sample_ns)
        if len(self._samples) < 2 * self.WINDOW:
            return False
        before, last = median(self._samples[-2 * self.WINDOW : -self.WINDOW]), median(self._samples[-self.WINDOW :])
        return abs(last - before) <= self.SHARE * before


class Settled:
    """Sampling is over when the median's 95 % interval is narrow, or there are samples enough."""

    GROWTH = 1.02  # from 100 samples on look only every 2 %: each look is a search for ranks

    def __init__(self, rules: Rules) -> None:
        self._rules, self._ordered = rules, list[int]()
        self._next_look = float(rules.min_samples)

    def feed(self, sample_ns: int) -> bool:
        """Takes one sample; whether that is enough."""
        insort(self._ordered, sample_ns)
        count = len(self._ordered)
        if count >= self._rules.max_samples:
            return True
        if count < self._next_look:
            return False
        self._next_look = max(count + 1, count * self.GROWTH)
        return relative_width(order_interval(self._ordered, HALF), self._ordered) <= self._rules.precision


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: whole nanoseconds per sample, in the order taken, each of `calls` calls."""

    samples_ns: list[int]
    calls: int
    timer_share: float
    warm_up_samples: int
    warm_up_stationary: bool
    stopped_by: str  # "precision", "samples" or "budget"
    buffer_sets: int = 1
    graph: bool = False
    warm_up_s: float = 0.0  # with calibration
    sampling_s: float = 0.0


def measure(run: Run, sets: Sequence[Tensors], stopwatch: Stopwatch, rules: Rules) -> Timed:
    """Time `run` on the sets of arguments in turn. What `run` raises passes through."""
    began = stopwatch.now_ns()
    turns = cycle(sets)

    def sample(calls: int) -> int:
        arguments = list(islice(turns, calls))  # before the clock starts
        return stopwatch.time_ns(run, arguments)

    calls = _whole_turns(_calibrate(sample, stopwatch.overhead_ns), sets, stopwatch)
    stationary, warm_up_samples, settled_in = Stationary(), 0, False
    needed_ns = stopwatch.overhead_ns / TIMER_SHARE
    deadline = began + rules.warm_up_s * NS_PER_S
    while not settled_in and stopwatch.now_ns() < deadline:
        sample_ns = sample(calls)
        warm_up_samples += 1
        if sample_ns < needed_ns and calls < MAX_CALLS:  # it was slow while calibrating: cold, or disturbed
            calls, stationary = _whole_turns(_more_calls(calls, sample_ns, needed_ns), sets, stopwatch), Stationary()
        else:
            settled_in = stationary.feed(sample_ns)
    settled, samples, stopped_by = Settled(rules), list[int](), "budget"
    warm = stopwatch.now_ns()
    deadline = warm + rules.budget_s * NS_PER_S
    while not samples or stopwatch.now_ns() < deadline:
        samples.append(sample(calls))
        if settled.feed(samples[-1]):
            stopped_by = "samples" if len(samples) >= rules.max_samples else "precision"
            break
    return Timed(
        samples_ns=samples,
        calls=calls,
        timer_share=stopwatch.overhead_ns / max(1, median(samples)),
        warm_up_samples=warm_up_samples,
        warm_up_stationary=settled_in,
        stopped_by=stopped_by,
        buffer_sets=len(sets),
        graph=getattr(stopwatch, "graph", False),
        warm_up_s=(warm - began) / NS_PER_S,
        sampling_s=(stopwatch.now_ns() - warm) / NS_PER_S,
    )


def _whole_turns(calls: int, sets: Sequence[Tensors], stopwatch: Stopwatch) -> int:
    """As many calls, or the next multiple of the sets where a graph would else replay some of them only."""
    return -(-calls // len(sets)) * len(sets) if getattr(stopwatch, "graph", False) else calls


def _calibrate(sample: Callable[[int], int], overhead_ns: float) -> int:
    """Calls in a sample, so that the timer's share holds with the fastest of three tries."""
    needed_ns = overhead_ns / TIMER_SHARE
    calls = 1
    while calls < MAX_CALLS:
        elapsed = min(sample(calls) for _ in range(3 if calls > 1 else 2))
        if elapsed >= needed_ns:
            break
        calls = _more_calls(calls, elapsed, needed_ns)
    return calls


def _more_calls(calls: int, elapsed_ns: int, needed_ns: float) -> int:
    """A fifth more than seems needed, at most 16 times as many: the first try may be far off."""
    enough = int(calls * needed_ns / max(1, elapsed_ns) * 1.2) + 1
    return min(MAX_CALLS, max(calls + 1, min(enough, calls * 16)))


def relative_width(interval: Interval, ordered: Sequence[int]) -> float:
    """Width of the median's interval over the median; infinite where there is none."""
    middle = percentile(ordered, HALF)
    return float("inf") if interval == INSUFFICIENT or middle == 0 else (interval[1] - interval[0]) / middle


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds of one call. None where the samples can't carry a figure. `ci95_*` bound the median."""

    p10: float | None
    p50: float
    p90: float | None
    p99: float | None
    mean: float
    min: float
    max: float
    ci95_low: float | None
    ci95_high: float | None
    n: int

    def rate_bounds(self, rate: float) -> tuple[float, float] | None:
        """The interval of a rate at the median: the latency's, upside down."""
        if not self.ci95_low or not self.ci95_high:
            return None
        return rate * self.p50 / self.ci95_high, rate * self.p50 / self.ci95_low


def metric_of(timed: Timed) -> Metric:
    """Microseconds of one call, from samples (at least one); the median's interval is `median_interval`."""
    metric = describe(timed.samples_ns, "us", "a sample's time / its calls", PERCENTILES)
    assert metric is not None
    metric.ci95["50"] = median_interval(timed.samples_ns)
    return metric.divided(timed.calls * NS_PER_US)


def latency_of(timed: Timed) -> Latency:
    """Nearest-rank percentiles of the samples, each over its calls; p10 needs 44 samples, p99 459."""
    metric = metric_of(timed)
    p10, _, p90, p99 = (None if isinstance(value, str) else value for value in metric.percentiles.values())
    low, high = (None, None) if metric.ci95["50"] == INSUFFICIENT else metric.ci95["50"]
    return Latency(
        p10=p10,
        p50=percentile(sorted(timed.samples_ns), HALF) / (timed.calls * NS_PER_US),
        p90=p90,
        p99=p99,
        mean=metric.mean,
        min=metric.min,
        max=metric.max,
        ci95_low=low,
        ci95_high=high,
        n=metric.count,
    )


def median_interval(samples_ns: Sequence[int]) -> Interval:
    """95 % interval of the median, wider where the samples follow each other (a machine that speeds up and slows down)."""
    ordered, factor = sorted(samples_ns), autocorrelation_factor(samples_ns)
    if factor <= 1.0:
        return order_interval(ordered, HALF)
    return effective_interval(ordered, HALF, len(ordered) / factor)


def noise_of(timed: Timed, precision: float) -> str:
    """Whether to believe the median: "steady", or what is wrong and how much."""
    samples = timed.samples_ns
    interval = median_interval(samples)
    if interval == INSUFFICIENT:
        return f"insufficient: {counted(len(samples), 'sample')} for an interval of the median"
    if timed.timer_share > TIMER_SHARE:
        return f"timer: reading it took {timed.timer_share:.2%} of a sample"
    third = len(samples) // 3
    first, last = samples[:third], samples[-third:]
    change = median(last) / median(first) - 1
    begin, end = (order_interval(sorted(part), HALF) for part in (first, last))
    apart = begin != INSUFFICIENT and end != INSUFFICIENT and (begin[1] < end[0] or end[1] < begin[0])
    if apart and abs(change) > DRIFT_SHARE:
        return f"drifting: {change:+.1%} from the first third of the samples to the last"
    width = relative_width(interval, sorted(samples))
    if width > precision:
        return f"noisy: the median's interval is {width:.1%} wide"
    return "steady"
