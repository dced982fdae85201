"""Prices measured on this machine, by `bmp micro`'s own sweep, kept by machine and case.

A case is measured with each provider; the fastest one that is right counts, since an engine would use it.
The cache is one small JSON file a case and provider, under the folder of `models.cache`, whose name is the hash of
everything that the time depends on: CPU, caches, device, threads, library versions, case, hot or cold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bytemlperf.child.limits import available_memory_bytes
from bytemlperf.hardware.kept import keep, path_of, read
from bytemlperf.hardware.peaks import identity_of
from micro.cases.case import Case
from micro.measure.timing import Rules
from micro.peaks.machine import GPU_CACHE_BYTES, MEMORY_SHARE, last_level_cache_bytes
from micro.predict.costs import Call, Price
from micro.sweep.row import Row
from micro.sweep.sweep import ASKED, Settings, Sweep

FOLDER = "measured-operators"
FORMAT = 3
"""1 was without kept memory, and cold through one cache; 2 no whole row."""

MAX_CASE_S = 300.0
TRIES = 2
"""A case that failed or took a suspicious time is measured once more: other programs may have been in the way."""


class Pair(NamedTuple):
    """A case, and whether with its inputs in the caches."""

    case: Case
    hot: bool

    @property
    def key(self) -> str:
        return f"{self.case.key}, {'hot' if self.hot else 'cold'}"


def _pair(call: Call, provider: str) -> Pair:
    return Pair(Case(op=call.op, provider=provider, args=call.args), call.hot)


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
        self._machine = identity_of(device, threads)

    def __call__(self, calls: Sequence[Call]) -> list[Price | str]:
        pairs = [_pair(call, provider) for call in calls for provider in self._providers]
        known = {} if self._fresh else {pair.key: row for pair in pairs if (row := self._read(pair))}
        before, wrong = set(known), dict[str, str]()
        for hot in (False, True) * TRIES:
            self._measure([pair for pair in pairs if pair.key not in known and pair.hot == hot], hot, known, wrong)
        return [self._price(call, known, wrong, before) for call in calls]

    def _price(self, call: Call, known: Mapping[str, Row], wrong: Mapping[str, str], before: set[str]) -> Price | str:
        """The fastest provider's, or what each of them says."""
        own = [_pair(call, provider).key for provider in self._providers]
        timed = {key: known[key].latency for key in own if key in known and known[key].status == "ok"}
        if not timed:
            reasons = (wrong.get(key) or f"refused: {known[key].reason}" for key in own)
            return "; ".join(f"{name} {reason}" for name, reason in zip(self._providers, reasons, strict=True))
        best = min(timed, key=lambda key: timed[key].p50)
        row, (low, high) = known[best], (timed[best].ci95_low, timed[best].ci95_high)
        remark = "" if row.noise == "steady" else row.noise.removeprefix("noisy: the median's ")
        bounds = None if low is None or high is None else (low, high)
        return Price(timed[best].p50, "measured before" if best in before else "measured", row.provider, remark, bounds)

    def _measure(self, pairs: list[Pair], hot: bool, known: dict[str, Row], wrong: dict[str, str]) -> None:
        """Rows of a sweep over the cases: what is timed or refused is kept, what failed or was skipped has a reason."""
        by_case = {pair.case.key: pair for pair in pairs}

        def record(row: Row) -> None:
            pair = by_case[row.key]
            if row.status in ("ok", "refused"):
                known[pair.key] = row
                keep(self._path(pair), row)
            else:
                wrong[pair.key] = f"{row.status}: {row.reason}"

        def begins(case: Case, number: int) -> None:
            self._say(f"measuring {number + 1}/{len(pairs)}: {case.key}")

        if pairs:
            Sweep(self._settings(hot), record, begins=begins).run(pair.case for pair in pairs)

    def _settings(self, hot: bool) -> Settings:
        cold_bytes = last_level_cache_bytes(self._threads) if self._device == "cpu" else GPU_CACHE_BYTES
        free = available_memory_bytes()
        return Settings(
            device=self._device,
            threads=self._threads,
            threads_from=ASKED,
            rules=Rules(budget_s=self._measure_s, warm_up_s=max(0.2, self._measure_s / 2)),
            cache_bytes=0 if hot else cold_bytes,
            max_case_s=MAX_CASE_S,
            max_memory_bytes=None if free is None or self._device != "cpu" else int(free * MEMORY_SHARE),
        )

    def _path(self, pair: Pair) -> Path:
        return path_of(f"{FOLDER}/{pair.case.op}-{pair.case.provider}", [FORMAT, self._machine, pair.key])

    def _read(self, pair: Pair) -> Row | None:
        row = read(self._path(pair), Row)
        return row if row and row.key == pair.case.key and (row.status == "refused" or row.latency_us is not None) else None
