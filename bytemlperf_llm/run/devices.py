"""This machine's devices while the engine that is measured works on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bytemlperf.hardware.telemetry import Telemetry
from bytemlperf_llm.metrics.energy import PART
from engines.contract import Engine

DEVICES_WITHOUT_GPU = ("cpu", "none")
Seen = Callable[[], dict[str, float]]


class Devices:
    """Looked at over the measured part where the engine runs here; of a server elsewhere nothing is said, this client's devices least of
    all. `device` is what the engine says that it runs on, empty where it doesn't."""

    def __init__(self, engine: Engine, device: str, *, launched: bool) -> None:
        local = launched or engine.weights != "remote"
        known = device and device != "remote"
        self._of_gpu = device.lower() not in DEVICES_WITHOUT_GPU if known else None
        self._telemetry = Telemetry() if local else None

    @property
    def seen(self) -> Seen | None:
        """What was seen last; None where nothing is looked at."""
        return None if self._telemetry is None else self._telemetry.latest

    async def begin(self) -> None:
        """Before the first request."""
        if self._telemetry is not None:
            self._telemetry.start()

    async def end(self, run: dict[str, Any]) -> None:
        """The mean power into run.json, where it was measured."""
        watts = None if self._telemetry is None else self._telemetry.stop(of_gpu=self._of_gpu)
        if watts is not None:
            run[PART] = watts._asdict()
