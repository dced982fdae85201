"""What an open loop says of its arrivals: a wrong rate, a wrong process, a late client and drops are all named."""

from __future__ import annotations

import msgspec
import pytest

from bytemlperf.arrivals.processes import bounded, offsets_ns
from general_perf.job.records import PerformanceRecord
from general_perf.measure.performance import faults, offered
from general_perf.results.kind import KIND

JOB = "digits-resnet/openvino/fp32"
FACTS = {"attempt": 1, "model": "digits-resnet", "backend": "openvino", "precision": "fp32", "device": "cpu"}


def record(process: str = "poisson", rate: float = 500.0, **fields) -> PerformanceRecord:
    """An open loop whose calls were due as planned and served in a millisecond."""
    due = [int(each) for each in bounded(offsets_ns(process, rate=rate, burstiness=1.0, seed=3), duration_ns=4_000_000_000)]
    facts = {
        "due_ns": due,
        "late_ns": [1000] * len(due),
        "latency_ns": [1_000_000] * len(due),
        "service_ns": [900_000] * len(due),
        "planned": len(due),
        "window_ns": 4_000_000_000,
        "requested_rate": rate,
        "process": process,
    }
    return PerformanceRecord(job=JOB, **FACTS, batch_size=1, **{"loop": "open", **facts, **fields})


@pytest.mark.parametrize("process", ["poisson", "constant", "gamma"])
def test_arrivals_as_planned_pass(process):
    facts = offered(record(process))
    assert facts["offered_rate"] == pytest.approx(500, rel=0.1)
    assert facts["gaps"] > 1000
    assert faults(facts, 1e6) == []


def test_a_constant_stream_is_no_poisson_process():
    facts = offered(msgspec.structs.replace(record("constant"), process="poisson"))
    assert any("not the target poisson process" in each for each in faults(facts, 1e6))


def test_a_rate_that_was_not_reached_fails_the_test():
    facts = offered(record(rate=250.0, requested_rate=500.0))
    assert facts["p_value"] < 1e-4
    assert any("Kolmogorov-Smirnov" in each for each in faults(facts, 1e6))


def test_a_late_client_is_told_and_bunches_its_arrivals():
    made = record("constant")
    made.late_ns = [5_000_000 if place % 20 == 0 else 0 for place in range(len(made.due_ns))]
    found = faults(offered(made), 1e6)
    assert any("the client sent late" in each for each in found)
    assert any("by 5 ms or more" in each for each in found)


def test_dropped_calls_stand_in_the_warnings_of_the_run():
    run = {"config": {"jobs": [JOB], "flags": {"iterations": None, "seconds": 3.0, "seed": 0}}}
    summary = KIND.summarise(run, [record(planned=9000, dropped=7000)])
    assert summary["open_loop"][f"{JOB} | batch 1, open"]["dropped"] == 7000
    assert any("7000 of 9000 calls were dropped" in each for each in summary["warnings"])


def test_a_closed_loop_and_a_record_of_before_say_nothing():
    assert offered(record(loop="closed")) is None
    assert offered(msgspec.structs.replace(record(), late_ns=[], due_ns=[], process="")) is None


def test_too_few_calls_are_not_tested():
    assert offered(record(rate=2.0))["distance"] is None
