"""The ceiling and the error bar, on calibrations of stated numbers."""

from __future__ import annotations

import pytest

from bytemlperf_llm.metrics.client_error import ceiling, error_bar, holds, others_busy, sentence, spread
from tests.calibration.made import calibration, errors, step


def test_a_spread_is_of_magnitudes_by_nearest_rank():
    found = spread([-5, 1, 2, 3, -4])
    assert (found.count, found.p50_ns, found.p99_ns, found.max_ns) == (5, 3, 5, 5)
    assert spread(range(1, 201)) == spread([-value for value in range(1, 201)])
    assert spread(range(1, 201)).p99_ns == 198
    assert spread([]).count == 0


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, True),
        ({"ttft": errors(0.5, 2.0)}, True),
        ({"ttft": errors(0.501, 2.0)}, False),
        ({"ttft": errors(0.1, 2.001)}, False),
        ({"e2e": errors(0.1, 3.6)}, True),  # 1 % of 360 ms
        ({"e2e": errors(0.1, 3.601)}, False),
        ({"tpot": errors(0.6, 0.7)}, False),
        ({"itl": errors(9.0, 9.0)}, True),  # the server's own unevenness is in it
        ({"server_write": errors(9.0, 90.0)}, True),
        ({"lateness": errors(0.1, 5.0)}, True),
        ({"lateness": errors(0.1, 5.001)}, False),  # a run that sends so late is client-limited
        ({"loop_busy": 0.5}, True),
        ({"loop_busy": 0.51}, False),
        ({"unmatched": 1}, False),
        ({"saturated": "server"}, False),
    ],
)
def test_a_step_holds_within_the_stated_limits(changes, held):
    rung = step(100, **changes)
    assert holds(rung, calibration(rung)) is held


def test_the_ceiling_is_the_highest_step_that_holds():
    steps = step(10), step(50, loop_busy=0.6), step(100), step(200, saturated="client")
    assert ceiling(calibration(*steps)) is steps[2]
    assert ceiling(calibration(steps[3])) is None
    assert ceiling(calibration()) is None


def test_the_error_bar_is_that_of_the_nearest_step_at_or_above():
    made = calibration(step(10, ttft=errors(0.1, 0.2)), step(100, ttft=errors(0.3, 0.4), e2e=errors(0.5, 0.6)), step(1000))
    at = error_bar(made, "", chunks_per_s=3200, streams=36)
    assert (at.at_chunks_per_s, at.ttft_p50_ms, at.ttft_p99_ms, at.e2e_p50_ms, at.e2e_p99_ms) == (3200, 0.3, 0.4, 0.5, 0.6)
    assert at.note == ""
    assert error_bar(made, "", chunks_per_s=319, streams=1).ttft_p50_ms == 0.1
    assert error_bar(made, "", chunks_per_s=321, streams=1).ttft_p50_ms == 0.3


def test_more_streams_at_the_same_chunk_rate_take_a_higher_step():
    made = calibration(step(10), step(100), step(1000))
    assert error_bar(made, "", chunks_per_s=300, streams=100).at_streams == 360
    beyond = error_bar(made, "", chunks_per_s=300, streams=5000)
    assert beyond.at_streams == 360
    assert beyond.note == "calibrated with 360 streams on a worker, the run had 5,000"


def test_beyond_the_ladder_there_is_no_figure():
    beyond = error_bar(calibration(step(10)), "", chunks_per_s=321, streams=1)
    assert beyond.ttft_p50_ms is None
    assert sentence(beyond).startswith("outside the calibrated range: 321 chunks/s on a worker, calibrated up to 320")


def test_what_stands_in_the_table():
    assert sentence(error_bar(None, "not calibrated", 1, 1)) == "not calibrated"
    assert sentence(error_bar(calibration(step(10)), "", None, None)) == "no chunks arrived"
    made = calibration(step(10, ttft=errors(0.12, 1.4), tpot=errors(0.004, 0.03), e2e=errors(0.2, 1.5)))
    assert sentence(error_bar(made, "", 100, 9)) == (
        "TTFT ± 0.12 ms (p99 1.4), TPOT ± 0.004 ms (p99 0.03), E2E ± 0.2 ms (p99 1.5), as calibrated at 320 chunks/s; "
        "calibrated with 4 streams on a worker, the run had 9"
    )


def test_other_processes_are_told_by_their_busiest_step():
    assert others_busy(calibration(step(10, others_busy=None), step(50, others_busy=0.3), step(100))) == 0.3
    assert others_busy(calibration(step(10, others_busy=None))) == 0.0
