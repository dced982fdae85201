"""Prices measured on this machine, by `bmp micro`'s own sweep, kept by machine and case.

A case is measured with each provider; the fastest one that is right counts, since an engine would use it.
The cache is one small JSON file a case, under the folder of `models.cache`, whose name is the hash of
everything that the time depends on: CPU, caches, device, threads, library versions, case, hot or cold.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf_llm.hardware.discover import cpu, nvidia_gpus, package_versions
from bytemlperf_llm.models.cache import cache_root
from micro.machine import GPU_CACHE_BYTES, MEMORY_SHARE, available_memory_bytes, last_level_cache_bytes
from micro.predict.costs import Answers, Ask, Price, case_of
from micro.rows import Row
from micro.sweep import Settings, Sweep
from micro.timing import Rules

FOLDER = "measured-operators"
FORMAT = 1
MAX_CASE_S = 300.0


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement in the cache, readable by itself."""

    case: str
    provider: str
    call_us: float
    ci95_us: tuple[float, float] | None
    noise: str
    conditions: dict[str, Any]


class Measuring:
    """A `micro.predict.costs.Pricing`. `say` is told what is measured; `fresh` measures even what is kept."""

    def __init__(
        self,
        device: str,
        threads: int,
        providers: Sequence[str],
        *,
        measure_s: float,
        fresh: bool = False,
        say: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        self._device, self._threads, self._providers = device, threads, list(providers)
        self._measure_s, self._fresh, self._say = measure_s, fresh, say
        self._machine = machine(device, threads)

    def __call__(self, asks: Sequence[Ask]) -> Answers:
        found: dict[str, Price] = {}
        reasons: dict[str, str] = {}
        for hot in (False, True):
            wanted = [ask for ask in asks if ask.hot == hot]
            open_asks = wanted if self._fresh else [ask for ask in wanted if not self._known(ask, found)]
            self._measure(open_asks, hot, found, reasons)
        return found, reasons

    def _known(self, ask: Ask, found: dict[str, Price]) -> bool:
        kept = self._read(ask)
        if kept is not None:
            found[ask.text] = Price(kept.call_us, "measured before", kept.provider, _remark(kept.noise))
        return kept is not None

    def _measure(self, asks: list[Ask], hot: bool, found: dict[str, Price], reasons: dict[str, str]) -> None:
        if not asks:
            return
        rows: dict[str, list[Row]] = {}
        texts = {case_of(ask, provider).key: ask.text for ask in asks for provider in self._providers}
        cases = [case_of(ask, provider) for ask in asks for provider in self._providers]
        sweep = Sweep(
            self._settings(hot),
            lambda row: rows.setdefault(texts[row.key], []).append(row),
            begins=lambda case, place: self._say(f"measuring {place + 1}/{len(cases)}: {case.key}"),
        )
        sweep.run(cases)
        for ask in asks:
            self._settle(ask, rows[ask.text], found, reasons)

    def _settle(self, ask: Ask, rows: list[Row], found: dict[str, Price], reasons: dict[str, str]) -> None:
        """The fastest row; a reason where none was measured."""
        measured = [row for row in rows if row.status == "ok" and row.latency_us is not None]
        if not measured:
            reasons[ask.text] = "; ".join(f"{row.provider} {row.status}: {row.reason}" for row in rows)
            return
        best = min(measured, key=lambda row: row.latency_us.p50 if row.latency_us else 0.0)
        assert best.latency_us is not None
        found[ask.text] = Price(best.latency_us.p50, "measured", best.provider, _remark(best.noise))
        low, high = best.latency_us.ci95_low, best.latency_us.ci95_high
        interval = None if low is None or high is None else (low, high)
        kept = Kept(
            case=ask.text, provider=best.provider, call_us=best.latency_us.p50, ci95_us=interval, noise=best.noise, conditions=self._machine
        )
        self._write(ask, kept)

    def _settings(self, hot: bool) -> Settings:
        cache = last_level_cache_bytes() if self._device == "cpu" else GPU_CACHE_BYTES
        free = available_memory_bytes()
        return Settings(
            device=self._device,
            threads=self._threads,
            rules=Rules(budget_s=self._measure_s, warm_up_s=max(0.2, self._measure_s / 2)),
            cache_bytes=0 if hot else cache,
            max_case_s=MAX_CASE_S,
            max_memory_bytes=None if free is None or self._device != "cpu" else int(free * MEMORY_SHARE),
        )

    def _path(self, ask: Ask) -> Path:
        what = json.dumps([FORMAT, self._machine, ask.text, sorted(self._providers)], sort_keys=True)
        return cache_root() / FOLDER / f"{ask.op}-{hashlib.sha256(what.encode()).hexdigest()[:24]}.json"

    def _read(self, ask: Ask) -> Kept | None:
        """None where nothing is kept, or what is kept is damaged."""
        with suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            kept = msgspec.json.decode(self._path(ask).read_bytes(), type=Kept)
            if kept.case == ask.text and kept.call_us > 0:
                return kept
        return None

    def _write(self, ask: Ask, kept: Kept) -> None:
        """Whole or not at all; a cache that can't be written only costs time."""
        path = self._path(ask)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(kept)))
            os.replace(name, path)


def machine(device: str, threads: int) -> dict[str, Any]:
    """Everything of a machine that an operator's time depends on."""
    processor = cpu()
    names = ("model", "logical_cores", "usable_cores", "quota_cores", "caches", "isa")
    return {
        "cpu": {name: processor[name] for name in names},
        "gpu": nvidia_gpus()[:1] if device != "cpu" else [],
        "device": device,
        "threads": threads,
        "packages": package_versions(("bytemlperf-llm", "torch", "numpy")),
    }


def _remark(noise: str) -> str:
    return "" if noise == "steady" else noise
