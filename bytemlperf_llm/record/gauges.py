"""gauges.jsonl: what the engine said of itself while the run went on, about once a second.

A line is `{"at_ns": …, "gauges": {"running": 3.0, …}}`: integer nanoseconds on the run's own time axis, as in the
records, and the numbers of the engine's `stats()` at that moment, and of this machine's devices where the engine runs on it.
`stats()` is asked where the engine runs beside the one worker that asks it. It is sampled by the run's slow tick, never by a request.

Bounded: an hour at one sample a second, then as many at one in two seconds, then in four, and so on: a
day is 18,000 lines. Names and numbers that are no gauge (text, NaN) are left out.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.runs.files import GAUGES
from bytemlperf.runs.log import RecordLog, cut_torn_tail
from bytemlperf.runs.records import Damage, whole_lines
from bytemlperf.units import NS_PER_S

SAMPLES_PER_STEP = 3_600
MAX_GAUGES = 64
_GAUGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")


Ask = Callable[[], dict[str, float]]


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line. `at_ns` from the run's origin."""

    at_ns: int
    gauges: dict[str, float]


class GaugeLog:
    """Asks an engine and keeps what it says. Nothing here ends a run: what goes wrong is said once, and sampling stops."""

    def __init__(self, engine: Any, folder: Path, say: Callable[[str], None], devices: Ask | None = None) -> None:
        self._asks: list[Ask] = [ask for ask in (getattr(engine, "stats", None), devices) if ask is not None]
        self._path, self._say = folder / GAUGES, say
        self._log: RecordLog | None = None
        self._samples = 0
        self._due_ns = 0

    def sample(self, at_ns: int) -> None:
        """Keep what the engine says now, where it's time to."""
        if not self._asks or at_ns < self._due_ns:
            return
        try:
            gauges = usable({name: value for ask in self._asks for name, value in ask().items()})
            if gauges:
                self._keep(Sample(at_ns=at_ns, gauges=gauges))
        except Exception as error:  # an engine's stats() may raise whatever its own code does
            self._asks = []
            self._say(f"sampling of the engine's metrics stopped: {type(error).__name__}: {error}")

    def _keep(self, sample: Sample) -> None:
        if self._log is None:
            cut_torn_tail(self._path)
            self._log = RecordLog(self._path, resume=True)
        self._log.append(sample)
        self._samples += 1
        self._due_ns = sample.at_ns + (NS_PER_S << self._samples // SAMPLES_PER_STEP) - NS_PER_S // 2

    def close(self) -> None:
        """Nothing is sampled after it."""
        self._asks = []
        if self._log is not None:
            try:
                self._log.close()
            except OSError as error:
                self._say(f"{GAUGES} may lack its last lines: {error.strerror}")


def usable(stats: dict[str, float]) -> dict[str, float]:
    """The finite numbers under names that can be gauges, at most `MAX_GAUGES`."""
    chosen = {name: float(value) for name, value in stats.items() if _GAUGE_NAME.fullmatch(name) and isinstance(value, int | float)}
    return dict([(name, value) for name, value in chosen.items() if math.isfinite(value)][:MAX_GAUGES])


class Gauges(NamedTuple):
    """What the file holds: whole lines in order, and a sentence for each line that is none."""

    samples: list[Sample]
    damages: list[str]


def read_gauges(folder: Path) -> Gauges:
    """Every whole line; nothing where there is no file. Never raises for what the file holds."""
    damages: list[Damage] = []
    samples: list[Sample] = list(whole_lines(folder / GAUGES, Sample, damages)) if os.path.lexists(folder / GAUGES) else []
    said = [str(damage) for damage in damages]
    if any(later.at_ns < earlier.at_ns for earlier, later in pairwise(samples)):
        said.append(f"{GAUGES} is not in the order of time")
    return Gauges(samples, said)
