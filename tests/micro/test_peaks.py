"""Peaks from scripted workers: what is measured, what is kept, what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bytemlperf.hardware.peaks import LINK, LOOKS, MEMORY, Peaks, kept, path_for
from micro.cases.case import Case
from micro.measure.conditions import Conditions
from micro.measure.correctness import Checked
from micro.measure.messages import Job, Outcome
from micro.peaks.peaks import RULES, SHORT_RULES, PeakSource, needed_by
from micro.sweep.sweep import Settings
from tests.micro.fakes import ScriptedRunner, timed

ALL = {"float32", MEMORY, LINK}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path))


def answer(job: Job) -> Outcome:
    """gemm: 2 TFLOP/s with oneDNN, half of it with torch, at any size; memory 100 GB/s for reads; a link of 5 GB/s."""
    if job.op == "gemm":
        seconds = 2 * job.args["M"] ** 3 / (2e12 if job.provider == "onednn" else 1e12)
    elif job.op == "p2p":
        return Outcome(status="ok", checked=Checked(), timed=timed([10**6] * 20), link_bytes=5 * 10**6)
    else:
        seconds = job.args["size"] * 4 / 100e9
    return Outcome(status="ok", checked=Checked(), timed=timed([round(seconds * 2e9), round(seconds * 1e9)]))


def measure(wanted: set[str], runner: ScriptedRunner, **more: bool) -> Peaks:
    settings = Settings(max_memory_bytes=8 << 30)
    source = PeakSource(settings, runners={"worker": lambda _: runner, "ranks": lambda _: runner}, **more)
    source.need(wanted)
    source.close()
    return source.peaks


def test_the_fastest_sample_of_the_fastest_provider_is_the_peak() -> None:
    peaks = measure(ALL, ScriptedRunner(answer))
    assert peaks.flops["float32"].per_s == pytest.approx(2e12, rel=1e-4)
    assert peaks.flops["float32"].provider == "onednn"
    roof = peaks.roof()
    assert roof.bytes_per_s == pytest.approx(300e9, rel=1e-4)  # the triad moves three arrays in that time
    assert roof.memory_bytes_per_s(0.0) == pytest.approx(100e9, rel=1e-4)
    assert roof.link_bytes_per_s == 5e9


def test_products_grow_until_a_call_takes_long_enough() -> None:
    runner = ScriptedRunner(answer)
    measure({"float32"}, runner)
    sizes = [job.args["M"] for job in runner.jobs if job.provider == "torch"]
    assert sizes == [512, 1024, 2048]  # 2048: 17 ms


def test_peaks_are_kept_and_measured_once_for_long() -> None:
    first = measure(ALL, ScriptedRunner(answer), fresh=True)
    again = ScriptedRunner(answer)
    assert measure(ALL, again) == first
    assert not again.jobs
    assert measure({"bfloat16"}, again).flops.keys() == {"float32", "bfloat16"}
    assert {job.args["dtype"] for job in again.jobs} == {"bfloat16"}
    fresh = ScriptedRunner(answer)
    measure(ALL, fresh, fresh=True)
    assert fresh.jobs


def test_a_peak_is_measured_shortly_and_looked_at_again_by_the_next_sweeps() -> None:
    float32 = {"float32"}
    first = ScriptedRunner(answer)
    assert measure(float32, first).flops["float32"].looks == 1
    assert {job.rules for job in first.jobs} == {SHORT_RULES}
    for sweep in range(2, LOOKS + 1):
        again = ScriptedRunner(lambda job, by=1 + sweep / 100: _faster(answer(job), by))
        peaks = measure(float32, again)
        assert [(job.provider, job.args) for job in again.jobs] == [(peaks.flops["float32"].provider, peaks.flops["float32"].args)]
        assert peaks.flops["float32"].looks == sweep
        assert peaks.flops["float32"].per_s == pytest.approx(2e12 * (1 + sweep / 100), rel=1e-3)  # the fastest of all
    last = ScriptedRunner(answer)
    measure(float32, last)
    assert not last.jobs


def _faster(outcome: Outcome, by: float) -> Outcome:
    assert outcome.timed is not None
    samples = [round(value / by) for value in outcome.timed.samples_ns]
    return msgspec.structs.replace(outcome, timed=msgspec.structs.replace(outcome.timed, samples_ns=samples))


def test_a_row_above_a_short_peak_has_it_measured_for_long() -> None:
    runner = ScriptedRunner(answer)
    source = PeakSource(Settings(max_memory_bytes=8 << 30), runners={"worker": lambda _: runner, "ranks": lambda _: runner})
    float32 = {"float32"}
    assert source.need(float32)
    assert not source.need(float32)  # once in a sweep
    runner.jobs.clear()
    assert source.refine(float32)
    assert {job.rules for job in runner.jobs} == {RULES}
    assert not source.refine(float32)


def test_a_damaged_cache_is_measured_anew() -> None:
    peaks = measure(ALL, ScriptedRunner(answer))
    path_for(peaks.identity).write_bytes(b'{"identity": 3')
    assert kept(peaks.identity) == Peaks(identity=peaks.identity)


def test_a_format_that_the_machine_lacks_says_why() -> None:
    runner = ScriptedRunner(lambda _: Outcome(status="refused", reason="no such format"))
    peaks = measure(ALL, runner)
    assert peaks.missing["float32"] == "torch: no such format; onednn: no such format"
    assert (peaks.memory, peaks.link) == ({}, None)
    assert peaks.roof().flops_per_s == {}


def test_a_sweep_wants_the_peaks_that_its_cases_are_held_against() -> None:
    gemm = Case(op="gemm", provider="torch", args={"M": 1, "K": 1, "N": 1, "dtype": "bfloat16"})
    assert needed_by(gemm) == {"bfloat16", MEMORY}
    assert needed_by(Case(op="nope", provider="torch", args={}, refusal="unknown")) == set()


def test_beside_busy_processes_the_best_of_three_tries_counts() -> None:
    takes_ns = iter([3000, 1000, 2000] * 100)

    def busy(job: Job) -> Outcome:
        took = timed([next(takes_ns) * 10**6] * 3)
        return Outcome(status="ok", checked=Checked(), timed=took, conditions=Conditions(seconds=1.0, others_cpus=1.0))

    runner = ScriptedRunner(busy)
    peaks = measure({"float32"}, runner, fresh=True)
    assert len(runner.jobs) == 6  # torch and oneDNN, one size: a call takes a second
    assert peaks.flops["float32"].per_s == 2 * 512**3
    assert peaks.flops["float32"].others_cpus == 1.0
