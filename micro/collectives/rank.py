"""One rank: does case after case with the others, so that groups are made once.

Run as `-m micro.collectives.rank DEVICE BACKEND THREADS STACKS` with `bytemlperf.child.ranks.variables_of`; jobs come on
standard input, messages leave on standard output. On SIGUSR1 it writes where it is into STACKS, which tells a rank that hangs
from those that wait for it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from bytemlperf.child.inside import die_with_parent, first_out_of_memory, messages
from bytemlperf.child.ranks import join_group
from bytemlperf.lazy import torch
from micro.collectives.contract import AllInputs, RankMaker
from micro.collectives.operators import SUMS_IN_PLACE
from micro.collectives.timing import Control, Restore, SharedStopwatch, start_skew_ns
from micro.measure.correctness import SEEDS_APART, Checked, check_outputs, copied, judged, last_call
from micro.measure.estimate import DEFAULT_BYTES_PER_S, DEFAULT_FLOPS_PER_S, buffer_sets
from micro.measure.messages import Hello, Job, RankDone, Stage, StageName, in_words
from micro.measure.timing import stopwatch_of
from micro.operators.contract import Operator, Outputs, Tensor, Tensors
from micro.peaks.machine import device_facts
from micro.providers.contract import Kernel, Refused
from micro.providers.registry import find_provider
from micro.registry import find_operator

ResultT = TypeVar("ResultT")
PROBE_VALUES = 1 << 18
GROUP_TIMEOUT_S = 3600
"""The sweep's time limit ends a case; the group's own must not come before it."""


class Stopped(Exception):
    """Another rank ended the case."""


class Ended(Exception):
    """This rank ended the case: status and reason."""

    def __init__(self, status: Literal["failed", "refused"], reason: str, checked: Checked | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.checked = status, reason, checked


def main() -> None:
    """Join the group, and serve until standard input ends."""
    device, backend, threads, stacks = sys.argv[1:5]
    die_with_parent()
    first_out_of_memory()
    tell = messages()
    number = int(os.environ["RANK"])
    with Path(stacks, f"{number}.txt").open("w", encoding="utf-8") as where:
        faulthandler.register(signal.SIGUSR1, file=where, all_threads=False)
        rank = _Rank(number, device, backend, int(threads))
        tell(rank.hello())
        for line in sys.stdin.buffer:
            tell(rank.do(msgspec.json.decode(line, type=Job), lambda name: tell(Stage(name=name))))
    os._exit(0)  # no farewell between ranks: the others may be gone


class _Rank:
    def __init__(self, rank: int, device: str, backend: str, threads: int) -> None:
        torch.set_num_threads(threads)
        local, kind = int(os.environ["LOCAL_RANK"]), device.partition(":")[0]
        self.device = "cpu" if kind == "cpu" else f"{kind}:{local}"
        if kind != "cpu":
            getattr(torch, kind).set_device(local)
        join_group(backend, timedelta(seconds=GROUP_TIMEOUT_S))
        self.control = Control()
        self.rank, self.backend = rank, backend
        self.stopwatch = stopwatch_of(self.device, graphs=False)
        self.skew_ns = start_skew_ns(self.control, self.stopwatch.now_ns)

    def hello(self) -> Hello:
        """`bytes_per_s` is of a small all_reduce, where there is more than one rank."""
        sum_ns = 0
        if self.control.ranks > 1:
            values = torch.ones(PROBE_VALUES, device=self.device)
            sum_ns = min(self.stopwatch.time_ns(torch.distributed.all_reduce, [(values,)]) for _ in range(4))
        return Hello(
            flops_per_s=DEFAULT_FLOPS_PER_S,
            bytes_per_s=8 * PROBE_VALUES / sum_ns * 1e9 if sum_ns else DEFAULT_BYTES_PER_S,
            threads=torch.get_num_threads(),
            affinity=sorted(os.sched_getaffinity(0)),
            **device_facts(self.device),
            timer_overhead_ns=self.stopwatch.overhead_ns,
            libraries={"torch": str(torch.__version__), "backend": self.backend, "start_skew_ns": f"{self.skew_ns:.0f}"},
        )

    def do(self, job: Job, begins: Callable[[StageName], None]) -> RankDone:
        """This rank's part of a case. Exceptions become the answer here and nowhere else."""
        try:
            with torch.inference_mode():
                return self._do(job, begins)
        except Stopped:
            return RankDone(status="stopped", agreed=True)
        except Ended as ended:
            return RankDone(status=ended.status, reason=ended.reason, checked=ended.checked, agreed=True)
        except Exception as error:  # the others may wait for this rank: nothing is agreed
            return RankDone(status="failed", reason=in_words(error))

    def _do(self, job: Job, begins: Callable[[StageName], None]) -> RankDone:
        operator = find_operator(job.op)
        begins("building")
        kernel = self._agreed(lambda: find_provider(job.provider).build(operator, job.args, self.device))
        begins("making inputs")
        inputs = self._agreed(lambda: operator.inputs(job.args, RankMaker(job.seed, self.rank, self.device)))
        checked = self._check(operator, job, kernel, inputs, begins)
        begins("timing")
        given = copied(inputs)
        sets = self._agreed(lambda: _sets(operator, job, kernel, inputs, given))
        done = self._time(job, kernel, sets, inputs, checked)
        begins("checking")
        return msgspec.structs.replace(done, checked=self._last(operator, job, kernel, sets, given))

    def _check(self, operator: Operator, job: Job, kernel: Kernel, inputs: Tensors, begins: Callable[[StageName], None]) -> Checked:
        """One call, whose result every rank compares with what it must hold."""
        begins("computing the reference")
        every = AllInputs(operator.inputs, job.args, seed=job.seed, rank=self.rank, device=self.device)
        reference = self._agreed(lambda: operator.reference(job.args, every))
        begins("running")
        outputs = self._run(kernel, inputs)
        begins("checking")
        return self._agreed(lambda: _faultless("", check_outputs(operator, job.args, inputs, outputs, reference)))

    def _run(self, kernel: Kernel, inputs: Tensors) -> Outputs:
        """A backend that lacks the operation says so on every rank before anything is sent."""
        lacking = ""
        try:
            outputs = kernel.run(*kernel.prepare(copied(inputs)))
        except RuntimeError as error:  # NotImplementedError is one
            if not _lacks(error):
                raise
            outputs, lacking = None, f"{self.backend}: {in_words(error)}"
        if self.device != "cpu":
            torch.accelerator.synchronize()

        def answer() -> Outputs:
            if lacking:
                raise Refused(lacking)
            return outputs

        return self._agreed(answer)

    def _time(self, job: Job, kernel: Kernel, sets: list[Tensors], inputs: Tensors, checked: Checked) -> RankDone:
        restore = _restore(inputs[0]) if job.op in SUMS_IN_PLACE else lambda _arguments: None
        shared = SharedStopwatch(self.control, self.stopwatch, restore, self.skew_ns)
        if self.rank == 0:
            timed, by_rank = shared.lead(kernel.run, sets, job.rules)
            return RankDone(status="ok", note=kernel.note, agreed=True, checked=checked, timed=timed, by_rank=by_rank)
        shared.follow(kernel.run, sets)
        return RankDone(status="ok", note=kernel.note, agreed=True, checked=checked)

    def _last(self, operator: Operator, job: Job, kernel: Kernel, sets: list[Tensors], given: Tensors) -> Checked:
        """The last timed call's result, of new values in the same memory."""
        seed = job.seed + SEEDS_APART
        values = self._agreed(lambda: operator.inputs(job.args, RankMaker(seed, self.rank, self.device)))
        last = last_call(kernel, operator.writes, sets, given, values, self.stopwatch, None)
        every = AllInputs(operator.inputs, job.args, seed=seed, rank=self.rank, device=self.device)
        return self._agreed(lambda: _faultless("of the last timed call", judged(operator, job.args, last, every)))

    def _agreed(self, step: Callable[[], ResultT]) -> ResultT:
        """`step`'s result, once it has gone well on every rank. Raises Ended where it went wrong here, Stopped elsewhere."""
        wrong = None
        try:
            result = step()
        except Refused as refused:
            wrong = Ended("refused", str(refused))
        except Ended as ended:
            wrong = ended
        except Exception as error:
            wrong = Ended("failed", in_words(error))
        answers = self.control.texts(wrong.status if wrong else "ok")
        if wrong:
            raise wrong
        if any(answer != "ok" for answer in answers):
            raise Stopped
        return result


def _faultless(which: str, checked: Checked) -> Checked:
    if checked.fault:
        raise Ended("failed", f"{f'wrong result {which}'.strip()}: {checked.fault}", checked)
    return checked


def _sets(operator: Operator, job: Job, kernel: Kernel, inputs: Tensors, given: Tensors) -> list[Tensors]:
    """As many as it takes; those of `given` are the last."""
    count = buffer_sets(operator.cost(job.args), job.cache_bytes)
    return [kernel.prepare(buffers) for buffers in (*(copied(inputs) for _ in range(count - 1)), given)]


def _restore(source: Tensor) -> Restore:
    """Sums pile up in place until they overflow: put the values back that the calls of a sample begin with."""

    def restore(arguments: Sequence[Tensors]) -> None:
        for inputs in {id(inputs): inputs for inputs in arguments}.values():
            inputs[0].copy_(source)

    return restore


def _lacks(error: Exception) -> bool:
    text = str(error).lower()
    return any(words in text for words in ("not support", "unsupported", "not implement", "invalid scalar type"))


if __name__ == "__main__":
    main()
