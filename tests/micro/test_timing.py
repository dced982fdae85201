"""Calibration, warm-up, stopping and verdicts, fed with made-up samples on a virtual clock."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from micro.measure.timing import CpuStopwatch, CudaStopwatch, Rules, Settled, Stationary, latency_of, measure, noise_of
from tests.micro.fakes import VirtualStopwatch, timed


def nothing(*_inputs: object) -> None:
    pass


@pytest.mark.parametrize("call_ns", [3, 1_000, 499_999, 500_000, 10_000_000])
def test_calls_in_a_sample_keep_the_timer_below_its_share(call_ns: int) -> None:
    result = measure(nothing, [(1,), (2,)], VirtualStopwatch(lambda _: call_ns, overhead_ns=50), Rules())
    assert 50 / result.samples_ns[0] <= 1e-4
    assert result.timer_share <= 1e-4
    assert latency_of(result).p50 == pytest.approx(call_ns / 1000)


def test_a_calibration_that_was_disturbed_is_made_good() -> None:
    watch = VirtualStopwatch(lambda call: 8_000_000 if call < 3 else 1_000)  # preempted while calibrating
    result = measure(nothing, [()], watch, Rules())
    assert min(result.samples_ns) >= 500_000
    assert result.calls >= 500


def test_warm_up_lasts_until_stationary_and_is_thrown_away() -> None:
    watch = VirtualStopwatch(lambda call: max(1_000_000, 5_000_000 - 100_000 * call))
    result = measure(nothing, [()], watch, Rules(warm_up_s=10))
    assert result.warm_up_stationary
    assert set(result.samples_ns) == {1_000_000}


def test_a_machine_that_never_settles_is_said_so_and_ends_with_the_budget() -> None:
    source = random.Random(7)
    watch = VirtualStopwatch(lambda _: source.randrange(1_000_000, 20_000_000))
    result = measure(nothing, [()], watch, Rules(warm_up_s=0.5, budget_s=1.0))
    assert result.stopped_by == "budget"
    assert watch.now_ns() <= 1.7e9
    assert noise_of(result, 0.01).startswith("noisy")


def test_sampling_stops_as_soon_as_the_interval_is_narrow() -> None:
    settled = Settled(Rules(min_samples=20))
    assert [settled.feed(1_000_000 + place) for place in range(20)] == [False] * 19 + [True]


def test_sampling_goes_on_while_the_interval_is_wide() -> None:
    settled, source = Settled(Rules(max_samples=500)), random.Random(1)
    ends = [settled.feed(source.randrange(1_000_000, 2_000_000)) for _ in range(500)]
    assert ends.index(True) == 499


def test_stationary_needs_two_windows_that_agree() -> None:
    stationary = Stationary()
    assert not any(stationary.feed(value) for value in [100] * 5 + [103] * 5)
    assert any(stationary.feed(value) for value in [103] * 5)


def test_a_drift_is_seen() -> None:
    assert noise_of(timed([1_000_000 + 1_000 * place for place in range(120)]), 0.5).startswith("drifting: +7.8%")


def test_few_samples_carry_no_interval_and_no_tail() -> None:
    few = timed([5, 6, 7])
    latency = latency_of(few)
    assert (latency.p50, latency.p99, latency.p10, latency.ci95_low) == (0.006, None, None, None)
    assert noise_of(few, 0.01).startswith("insufficient")
    assert latency_of(timed(list(range(1, 459)))).p99 is None
    assert latency_of(timed(list(range(1, 460)))).p99 == 0.455


def test_a_steady_machine_is_steady() -> None:
    assert noise_of(timed([1_000_000 + place % 3 for place in range(60)]), 0.01) == "steady"


def test_buffers_take_turns() -> None:
    seen: list[int] = []
    measure(seen.append, [(0,), (1,), (2,)], VirtualStopwatch(lambda _: 200_000, overhead_ns=50), Rules(warm_up_s=0.01, budget_s=0.01))
    timed_part = seen[-30:]
    assert {after - before for before, after in pairwise(timed_part)} == {1, -2}


def test_the_cpu_stopwatch_counts_every_call() -> None:
    calls: list[int] = []
    assert CpuStopwatch().time_ns(calls.append, [(1,), (2,)]) > 0
    assert calls == [1, 2]


class FakeCuda:
    """Stands for torch.cuda: events read a counter that a call moves by 2 ms, a replay by 1 ms a call."""

    def __init__(self, capturable: bool = True) -> None:
        self.clock_ms, self.capturing, self.capturable, self.replays = 0.0, 0, capturable, 0
        fake = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at = 0.0

            def record(self) -> None:
                self.at = fake.clock_ms

            def synchronize(self) -> None: ...

            def elapsed_time(self, end: Event) -> float:
                return end.at - self.at

        class CUDAGraph:
            calls = 0

            def replay(self) -> None:
                fake.replays += 1
                fake.clock_ms += self.calls

        class graph:
            def __init__(self, target: CUDAGraph) -> None:
                self.target = target

            def __enter__(self) -> None:
                fake.capturing = 1

            def __exit__(self, *_: object) -> None:
                self.target.calls, fake.capturing = fake.capturing - 1, 0

        self.Event, self.CUDAGraph, self.graph = Event, CUDAGraph, graph

    def synchronize(self) -> None: ...

    def call(self) -> None:
        if self.capturing:
            if not self.capturable:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.capturing += 1
        else:
            self.clock_ms += 2


def test_cuda_calls_are_captured_once_and_replayed() -> None:
    cuda = FakeCuda()
    watch = CudaStopwatch(cuda)
    assert [watch.time_ns(cuda.call, [()] * 3) for _ in range(2)] == [3_000_000, 3_000_000]
    assert (cuda.replays, watch.graph) == (2, True)


class RecordingCuda(FakeCuda):
    """Keeps which buffers a replay touches: those of the calls that were captured."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: list[int] = []
        recorded: list[int] = []
        fake, Graph, capture = self, self.CUDAGraph, self.graph

        class CUDAGraph(Graph):  # type: ignore[valid-type, misc]
            buffers: tuple[int, ...] = ()

            def replay(self) -> None:
                super().replay()
                fake.touched.extend(self.buffers)

        class graph(capture):  # type: ignore[valid-type, misc]
            def __enter__(self) -> None:
                recorded.clear()
                super().__enter__()

            def __exit__(self, *error: object) -> None:
                super().__exit__(*error)
                self.target.buffers = tuple(recorded)

        self.recorded = recorded
        self.CUDAGraph, self.graph = CUDAGraph, graph

    def use(self, buffer: int) -> None:
        self.call()
        if self.capturing:
            self.recorded.append(buffer)


@pytest.mark.parametrize("sets", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("call_ms", [0.001, 0.4, 1.0, 6.0])
def test_a_graph_goes_through_all_buffers_in_every_sample(sets: int, call_ms: float) -> None:
    cuda = RecordingCuda()
    watch = CudaStopwatch(cuda)
    watch.EVENT_TICK_NS = 500.0
    watch.overhead_ns = 500.0 / call_ms  # a call takes 1 ms on the fake: as if it took call_ms
    result = measure(cuda.use, [(place,) for place in range(sets)], watch, Rules(budget_s=0.01, warm_up_s=0.01, max_samples=20))
    assert result.graph
    assert result.calls % sets == 0
    sample = cuda.touched[-result.calls :]
    assert sample == [(sample[0] + place) % sets for place in range(result.calls)]


def test_another_kernel_of_the_same_name_and_length_is_captured_anew() -> None:
    cuda = RecordingCuda()
    watch = CudaStopwatch(cuda)
    watch.time_ns(cuda.use, [(1,), (2,)])
    watch.time_ns(cuda.use, [(3,), (4,)])
    assert cuda.touched == [1, 2, 3, 4]


def test_sampling_time_is_kept() -> None:
    result = measure(nothing, [()], VirtualStopwatch(lambda _: 1_000_000), Rules())
    assert result.sampling_s == pytest.approx(len(result.samples_ns) * 1e-3)
    assert result.warm_up_s > 0


def test_a_kernel_that_cannot_be_captured_is_timed_by_events() -> None:
    cuda = FakeCuda(capturable=False)
    watch = CudaStopwatch(cuda)
    assert watch.time_ns(cuda.call, [()] * 3) == 6_000_000
    assert not watch.graph
