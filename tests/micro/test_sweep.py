"""Every case becomes one row, with scripted runners on a virtual clock."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from bytemlperf.child.process import environment as child_environment
from bytemlperf.hardware.peaks import Roof
from micro.cases.case import Case
from micro.measure.correctness import Checked
from micro.measure.estimate import SETUP_S_PER_BYTE, Rates, buffer_sets, estimate
from micro.measure.messages import Job, Outcome
from micro.operators.contract import Cost
from micro.peaks.machine import KEPT_BLOCKS
from micro.registry import OPERATORS
from micro.sweep.row import Row, plain_row
from micro.sweep.sweep import Settings, Sweep
from tests.micro.fakes import ScriptedRunner, timed
from tests.micro.made import latency


def case(size: int = 64, **more: Any) -> Case:
    return Case(op="gemm", provider="torch", args={"M": size, "K": size, "N": size, "dtype": "float32"}, **more)


def swept(cases: list[Case], runner: ScriptedRunner | None = None, **settings: Any) -> list[Row]:
    runner, rows = runner or ScriptedRunner(), list[Row]()
    sweep = Sweep(Settings(**settings), rows.append, runners={"worker": lambda _: runner}, now_s=lambda: runner.now)
    sweep.run(cases)
    assert runner.closed or not runner.jobs
    assert [row.key for row in rows] == [case.key for case in cases]
    return rows


def test_rates_follow_from_the_cost_and_the_median() -> None:
    (row,) = swept([case(100)])
    assert row.latency_us is not None
    assert row.latency_us.p50 == 1000
    assert (row.flops, row.bytes) == (2_000_000, 120_000)
    assert row.tflops == 0.002
    assert row.mem_bw_gbs == 0.12
    assert row.intensity == 2_000_000 / 120_000


def test_a_failed_case_is_a_row_and_the_next_one_runs() -> None:
    def answer(job: Job) -> Outcome:
        return (
            Outcome(status="failed", reason="crashed while timing: killed by SIGSEGV")
            if job.args["M"] == 1
            else ScriptedRunner()._answer(job)
        )

    rows = swept([case(1), case(2)], ScriptedRunner(answer))
    assert [row.status for row in rows] == ["failed", "ok"]
    assert rows[0].latency_us is None
    assert "SIGSEGV" in rows[0].reason


def test_too_much_memory_is_known_beforehand() -> None:
    runner = ScriptedRunner()
    (row,) = swept([case(1 << 15)], runner, max_memory_bytes=1 << 30)
    assert (row.status, runner.jobs) == ("skipped", [])
    assert "more than --memory-limit 1 GiB" in row.reason


def test_rotating_buffers_count_as_memory() -> None:
    (row,) = swept([case(64)], max_memory_bytes=1 << 20, cache_bytes=1 << 28)
    assert row.status == "skipped"
    assert row.reason.endswith("; --hot needs 0.359 MiB")


def test_a_case_that_would_take_too_long_is_skipped() -> None:
    (row,) = swept([case(1 << 16)], max_case_s=5)
    assert row.status == "skipped"
    assert "more than --time-limit 5" in row.reason


def test_the_budget_ends_a_sweep_with_rows() -> None:
    rows = swept([case(size) for size in (1, 2, 3, 4)], ScriptedRunner(took_s=1.0), budget_s=2)
    assert [row.status for row in rows] == ["ok", "ok", "skipped", "skipped"]
    assert rows[-1].reason == "the budget is spent: --budget 2 s has no room for the case"


def test_a_refusal_needs_no_runner() -> None:
    runner = ScriptedRunner()
    (row,) = swept([Case(op="nope", provider="torch", args={}, refusal="there is no operator 'nope'")], runner)
    assert (row.status, row.reason, runner.jobs) == ("refused", "there is no operator 'nope'", [])


def test_estimates_learn_from_what_was_measured() -> None:
    rows = swept([case(100), case(101)])
    first, second = (row.estimate for row in rows)
    assert first is not None
    assert second is not None
    assert first.call_s < 2e-5
    assert 0.9e-3 < second.call_s < 1.1e-3


def test_every_operator_has_an_estimate_and_a_runner() -> None:
    from micro.sweep.sweep import RUNNERS

    assert {operator.runner for operator in OPERATORS.values()} <= set(RUNNERS)


def test_a_row_says_threads_and_conditions_even_of_ranks() -> None:
    (row,) = swept([case(100)])
    assert row.threads == 1
    assert row.conditions is not None
    assert row.conditions.others_cpus is None


def test_estimates_learn_how_long_set_up_and_timing_take() -> None:
    rates = Rates(timing_s=1.5)
    rates.learn_case(timing_s=0.5, setup_s=9.0, setup_bytes=1 << 10)  # so few bytes tell nothing of a byte's cost
    assert (rates.timing_s, rates.setup_s_per_byte) == (1.0, SETUP_S_PER_BYTE)
    rates.learn_case(timing_s=1.0, setup_s=1.0, setup_bytes=10**9)
    assert rates.setup_s_per_byte == (SETUP_S_PER_BYTE + 1e-9) / 2
    operator, args = OPERATORS["gemm"], case(64).args
    assert estimate(operator, args, "torch", rates, 0).case_s >= rates.timing_s


def test_efficiency_is_in_the_row() -> None:
    runner, rows = ScriptedRunner(), list[Row]()
    roofs = {"measured": Roof(flops_per_s={"float32": 4e9}, bytes_per_s=1e9)}
    Sweep(Settings(), rows.append, runners={"worker": lambda _: runner}, roofs=lambda _case, _row: roofs, now_s=lambda: runner.now).run(
        [case(100)]
    )
    assert rows[0].efficiency is not None
    assert rows[0].efficiency["mfu_measured"] == 0.5  # 2e6 FLOPs in 1 ms


@pytest.mark.parametrize(
    ("flops_peak", "errors", "status"),
    [(1.9e9, {}, "ok"), (1.7e9, {}, "failed"), (1.7e9, {"float32": 0.5}, "ok"), (4e5, {"float32": 1.0}, "failed")],
)
def test_a_row_above_a_measured_roof_and_its_error_is_failed_with_its_figures(
    flops_peak: float, errors: dict[str, float], status: str
) -> None:
    runner, rows = ScriptedRunner(), list[Row]()
    roofs = {"measured": Roof(flops_per_s={"float32": flops_peak}, errors=errors)}
    Sweep(Settings(), rows.append, runners={"worker": lambda _: runner}, roofs=lambda _case, _row: roofs, now_s=lambda: runner.now).run(
        [case(100)]
    )
    assert rows[0].status == status  # 2e6 FLOPs in 1 ms
    assert rows[0].latency_us is not None
    assert ("no such work was done" in rows[0].reason) == (status == "failed")


def test_cold_buffers_are_not_read_faster_than_memory_gives_them() -> None:
    from micro.roofline import too_fast

    row = msgspec.structs.replace(
        plain_row(case(100), "cpu", "ok", ""), latency_us=latency(1000.0, 1010.0), read_bytes=40_000_000, buffers="cold: 4 sets", flops=0
    )
    changed = msgspec.structs.replace
    roof = Roof(bytes_per_s=10e9, by_writes=[(0.0, 20e9), (0.5, 10e9)])
    assert too_fast(roof, row).startswith("198% of this machine's peak of reading of memory")
    assert too_fast(roof, changed(row, read_bytes=20_000_000, write_bytes=20_000_000)) == "", "a result may stay in a cache"
    assert too_fast(roof, changed(row, buffers="hot: one set of buffers")) == ""
    assert too_fast(Roof(flops_per_s={"int8": 1e9, "float32": 9e9}), changed(row, flops=8_000_000, flops_dtype="int8")) == ""


def test_one_odd_case_does_not_rule_the_estimates() -> None:
    def answer(job: Job) -> Outcome:
        return Outcome(status="ok", checked=Checked(), timed=timed([10**9 if job.args["M"] == 1 else 10**6] * 40))  # a stall of a second

    rows = swept([case(1), case(256)], ScriptedRunner(answer))
    assert [row.status for row in rows] == ["ok", "ok"]
    second = rows[1].estimate
    assert second is not None
    assert second.call_s < 0.1


@pytest.mark.parametrize(
    ("read", "footprint", "sets"), [(1 << 20, 0, 128), (33 << 20, 0, 4), (1 << 30, 0, 2), (1 << 10, 32 << 20, 8), (1 << 10, 0, 1024)]
)
def test_rotation_reads_two_caches_or_ends_at_four_of_it(read: int, footprint: int, sets: int) -> None:
    assert buffer_sets(Cost(0, read, 0, footprint_bytes=footprint), 64 << 20) == sets


HELD = """
import numpy, pathlib, resource
def held(): return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
x = numpy.ones(64 << 20, numpy.uint8)
before = held()
x + x
print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps blocks as it likes")
def test_the_memory_of_a_result_is_kept_for_the_next_one() -> None:
    environment = child_environment(KEPT_BLOCKS, 1)
    done = subprocess.run([sys.executable, "-c", HELD], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 60 << 20, "its pages would be new ones otherwise, zeroed by the kernel at each call"
