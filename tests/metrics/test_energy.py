"""Energy of a run, where something measured it."""

from __future__ import annotations

from typing import Any

import pytest

from bytemlperf.hardware.power import Watts
from bytemlperf_llm.kind import figures_of
from bytemlperf_llm.metrics.energy import energy_of
from bytemlperf_llm.pages.server import energy_sections
from bytemlperf_llm.run import devices
from bytemlperf_llm.run.devices import Devices

SUMMARY = {"tokens": {"output_tokens": 100, "prompt_tokens": 400, "answers_without_prompt_count": 0}}
END = {"end": {"duration_ns": 10_000_000_000}}


def test_power_of_this_machine_goes_before_a_page_of_metrics():
    paged = {**END, "counted": {"counts": {"gpu_energy_j": 1500.0, "node2_energy_j": 500.0, "steps": 3.0}}}
    told = energy_of(paged, SUMMARY)
    assert told is not None
    assert (told.joules, told.watts, told.source) == (2000.0, 200.0, "measured by gpu and node2")
    assert (told.joules_per_output_token, told.joules_per_token) == (20.0, 4.0)
    here = energy_of({**paged, "power": {"value": 50.0, "source": "measured by RAPL"}}, SUMMARY)
    assert here is not None
    assert (here.joules, here.watts, here.source) == (500.0, 50.0, "measured by RAPL")


def test_what_is_not_known_is_none():
    assert energy_of(END, SUMMARY) is None
    assert energy_of({"counted": {"counts": {"energy_j": 1.0}}}, SUMMARY) is None
    tokens = {"output_tokens": 0, "prompt_tokens": 0, "answers_without_prompt_count": 1}
    told = energy_of({**END, "counted": {"counts": {"energy_j": 1.0}}}, {"tokens": tokens})
    assert told is not None
    assert (told.source, told.joules_per_output_token, told.joules_per_token) == ("measured by the server", None, None)


def test_the_page_says_what_was_measured_by_what():
    energy = {"watts": 200.0, "source": "measured by gpu", "joules": 2000.0, "joules_per_output_token": 20.0, "joules_per_token": None}
    (text,) = energy_sections({"energy": energy})
    assert text.body == "energy: 2,000 J, 200 W on average (measured by gpu; idle devices too): 20 J per output token"
    assert energy_sections({}) == []
    (figure,) = [figure for figure in figures_of("chat", {"energy": energy}, None) if "energy" in figure.metric]
    assert (figure.value, figure.unit, figure.better) == (20.0, "J", "lower")


class Telemetry:
    asked: Any = "not asked"

    def start(self) -> None:
        """Nothing to see."""

    def latest(self) -> dict[str, float]:
        return {"gpu_power_w": 3.0}

    def stop(self, *, of_gpu: bool | None) -> Watts:
        self.asked = of_gpu
        return Watts(7.0, "measured by NVML")


class Engine:
    def __init__(self, weights: str) -> None:
        self.weights = weights


@pytest.mark.parametrize(
    ("weights", "device", "launched", "of_gpu"),
    [("local", "cpu", False, False), ("local", "NVIDIA H100", False, True), ("none", "", False, None), ("remote", "remote", True, None)],
)
async def test_devices_are_this_machines_where_the_engine_runs_on_it(monkeypatch, weights, device, launched, of_gpu):
    telemetry, run = Telemetry(), {}
    monkeypatch.setattr(devices, "Telemetry", lambda: telemetry)
    seen = Devices(Engine(weights), device, launched=launched)
    await seen.begin()
    await seen.end(run)
    assert run == {"power": {"value": 7.0, "source": "measured by NVML"}}
    assert telemetry.asked is of_gpu
    assert seen.seen is not None
    assert seen.seen() == {"gpu_power_w": 3.0}


async def test_of_a_server_elsewhere_this_clients_devices_say_nothing(monkeypatch):
    monkeypatch.setattr(devices, "Telemetry", None)
    seen, run = Devices(Engine("remote"), "remote", launched=False), {}
    await seen.begin()
    await seen.end(run)
    assert run == {}
    assert seen.seen is None
