"""When a run calibrates its client by itself, and that nothing of it keeps the run from going on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.calibration import first
from bytemlperf_llm.calibration.cache import machine
from bytemlperf_llm.calibration.first import SKIP, calibrate_first
from bytemlperf_llm.calibration.ladder import Say
from bytemlperf_llm.metrics.client_error import Calibration
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from tests.calibration.made import calibration, step

HTTP = Flags(engine="openai", base_url="http://127.0.0.1:1")


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Sequence[float]]:
    """An empty cache, and the rates of each calibration that is made."""
    made: list[Sequence[float]] = []

    def measure(say: Say, rates: Sequence[float], step_s: float) -> Calibration:
        made.append(rates)
        return calibration(step(10), machine=machine())

    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    monkeypatch.delenv(SKIP[0])
    monkeypatch.setattr(first, "run_calibration", measure)
    return made


def test_the_first_run_over_http_calibrates_and_says_how_to_skip_it(measured: list[Sequence[float]]) -> None:
    said: list[str] = []
    for _ in range(2):
        calibrate_first(resolve(HTTP), said.append)
    assert measured == [first.RATES]
    assert [("once on this machine" in text, "--no-calibrate" in text) for text in said] == [(True, True)]


@pytest.mark.parametrize("flags", [Flags(), HTTP.changed(calibrate=False), HTTP.changed(engine_options=("transport=aiohttp",))])
def test_what_no_calibration_is_of_has_none(flags: Flags, measured: list[Sequence[float]]) -> None:
    calibrate_first(resolve(flags), print)
    assert measured == []


def test_the_environment_skips_it(measured: list[Sequence[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*SKIP)
    calibrate_first(resolve(HTTP), print)
    assert measured == []


def test_one_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Calibration:
        raise UserError("no server", "try again")

    said: list[str] = []
    monkeypatch.setattr(first, "run_calibration", fail)
    calibrate_first(resolve(HTTP), said.append)
    assert said[-1] == "not calibrated: no server; try again"
