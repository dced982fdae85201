"""Traces sent after the run have the time of day that the run had."""

from __future__ import annotations

import pytest

from bytemlperf_llm.export.otlp_traces import facts_of
from tests.report.made import llm_run_json

ORIGIN = {"clock_origin_ns": 5, "clock_origin_unix_ns": 1_795_000_000_000_000_000}
RESUMED = [{"clock_origin_ns": 9, "clock_origin_unix_ns": 1_795_000_100_000_000_000}]


@pytest.mark.parametrize(("more", "epoch_ns"), [({}, ORIGIN), ({"resumed": RESUMED}, RESUMED[0])])
def test_the_time_of_day_is_the_runs_own(tmp_path, more, epoch_ns):
    assert facts_of(tmp_path, llm_run_json(**ORIGIN, **more)).epoch_ns == epoch_ns["clock_origin_unix_ns"]
