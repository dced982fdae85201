"""A virtual stopwatch and scripted case runners: decisions are tested without waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from micro.measure.correctness import Checked
from micro.measure.messages import Hello, Job, Outcome
from micro.measure.timing import Timed


class VirtualStopwatch:
    """`call_ns(number of the call)` is how long a call takes; time passes by calls alone."""

    def __init__(self, call_ns: Callable[[int], int], overhead_ns: float = 50.0) -> None:
        self.overhead_ns, self._call_ns = overhead_ns, call_ns
        self._now_ns, self.calls = 0, 0

    def now_ns(self) -> int:
        return self._now_ns

    def time_ns(self, run: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> int:
        start = self._now_ns
        for inputs in arguments:
            run(*inputs)
            self._now_ns += self._call_ns(self.calls)
            self.calls += 1
        return self._now_ns - start


def timed(samples_ns: list[int], calls: int = 1) -> Timed:
    return Timed(
        samples_ns=samples_ns,
        calls=calls,
        timer_share=1e-5,
        warm_up_samples=10,
        warm_up_stationary=True,
        stopped_by="precision",
        buffer_sets=3,
    )


class ScriptedRunner:
    """Answers jobs by `answer`; `took_s` passes on the clock that it shares with the sweep."""

    def __init__(self, answer: Callable[[Job], Outcome] | None = None, took_s: float = 1.0) -> None:
        self.jobs: list[Job] = []
        self.closed = False
        self.now = 0.0
        self._took_s = took_s
        self._answer = answer or (lambda job: Outcome(status="ok", checked=Checked(), timed=timed([1_000_000] * 40)))

    def refusal(self, job: Job) -> str:
        return ""

    def hello(self) -> Hello:
        return Hello(
            flops_per_s=1e12,
            bytes_per_s=1e10,
            threads=1,
            affinity=[0],
            device_name="virtual",
            device_memory_bytes=0,
            timer_overhead_ns=50,
            libraries={},
        )

    def run(self, job: Job, limit_s: float) -> Outcome:
        self.jobs.append(job)
        self.now += self._took_s
        return self._answer(job)

    def close(self) -> None:
        self.closed = True
