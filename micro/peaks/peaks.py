"""The peaks of this machine, measured: arithmetic per number format, memory, a link between two ranks.

They are cases like any other, run by the same workers, checked before they are timed:
- **arithmetic**: square products of growing size through every provider that packs them best, until a
  call takes long enough; the fastest sample of the fastest product.
- **memory**: STREAM's triad, a copy and a read, through buffers that no cache holds. The triad is the headline;
  a case is held against its own share of writes, between those three.
- **link**: one rank sends, another receives, some sizes; the fastest.

A peak is the fastest sample and not a median: what the machine can do, undisturbed. Peaks are kept in the
cache folder by a hash of what they depend on, and each says when it was measured. One is measured shortly when a sweep comes to the first
case that needs it; the next sweeps look again at its best case, `LOOKS` times in all, and so does a sweep whose row is above it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple

import msgspec

from bytemlperf.hardware.kept import keep
from bytemlperf.hardware.peaks import BUSY_CPUS, LINK, LOOKS, MEMORY, WRITE_SHARES, Peak, Peaks, identity_of, kept, path_for
from micro.cases.case import Arguments, BadCase, Case, case_text, validate
from micro.measure.messages import Job, Outcome
from micro.measure.timing import Rules, Timed
from micro.operators.contract import Cost
from micro.peaks.machine import GPU_CACHE_BYTES, last_level_cache_bytes
from micro.registry import OPERATORS
from micro.sweep.sweep import RUNNERS, CaseRunner, Settings

RULES = Rules(warm_up_s=0.3, budget_s=1.0)
SHORT_RULES = Rules(warm_up_s=0.05, budget_s=0.25)
LIMIT_S = 30.0
"""Of one case: a format that the device lacks may be emulated a thousand times slower."""

BUSY_TRIES = 3
GEMM_PROVIDERS = ("torch", "onednn")
ENOUGH_S = 0.01
"""A product of that long keeps every core busy; a larger one would not be faster."""

FIRST_SIZE = {"cpu": 512, "cuda": 2048}
LAST_SIZE = 16384
STREAM_VALUES = {"cpu": (1 << 20, 1 << 22), "cuda": (1 << 24, 1 << 26)}
"""Small ones give short samples, some of which nothing disturbs; large ones keep many cores busy."""

LINK_VALUES = (1 << 18, 1 << 20, 1 << 22)


def needed_by(case: Case) -> set[str]:
    """Names of the peaks that a case's efficiencies are shares of, from its analytic cost."""
    if case.refusal:
        return set()
    operator = OPERATORS[case.op]
    if operator.runner == "ranks":
        return {LINK}
    cost = operator.cost(case.args)
    memory = {MEMORY} if cost.read_bytes + cost.write_bytes else set()
    return memory | ({cost.flops_dtype} if cost.flops and cost.flops_dtype else set())


class PeakSource:
    """A sweep's peaks: what the cache has, and the rest measured when a case needs it. With `fresh` all are measured, and for long."""

    def __init__(
        self,
        settings: Settings,
        *,
        fresh: bool = False,
        says: Callable[[str], None] = lambda _text: None,
        runners: dict[str, Callable[[Settings], CaseRunner]] | None = None,
    ) -> None:
        identity = identity_of(settings.device, settings.threads)
        self.peaks = Peaks(identity=identity) if fresh else kept(identity)
        self._rules = RULES if fresh else SHORT_RULES
        self._bench = _Bench(settings, RUNNERS if runners is None else runners, says)
        self._seen: set[str] = set()  # names that this sweep has looked at

    def need(self, needed: Set[str]) -> bool:
        """Have these: measure those that were never tried, look again at those that few sweeps have seen. Whether any may have changed.
        Raises UserError where no worker comes up."""
        lacking = self.peaks.lacks(needed)
        rough = self.peaks.rough(needed) - self._seen
        self._seen |= rough | lacking
        self._measure(lacking, self._rules)
        for dtype in sorted(rough - {MEMORY}):
            peak = self.peaks.flops[dtype]
            self._keep_best(self.peaks.flops, dtype, [_product(self._bench, peak.provider, peak.args)], dtype)
        self._measure(rough & {MEMORY}, SHORT_RULES)
        return self._kept() if lacking or rough else False

    def refine(self, needed: Set[str]) -> bool:
        """Measure these for long, once in a sweep: a row is above one of them. Whether any may have changed."""
        rough = self.peaks.rough(needed)
        self._measure(rough, RULES)
        return self._kept() if rough else False

    def close(self) -> None:
        """End its workers."""
        self._bench.close()

    def _kept(self) -> bool:
        if self.peaks.memory:
            self.peaks.missing.pop(MEMORY, None)
        keep(path_for(self.peaks.identity), self.peaks)
        return True

    def _measure(self, needed: Set[str], rules: Rules) -> None:
        bench, peaks = self._bench, self.peaks
        bench.rules = rules
        for dtype in sorted(needed - {MEMORY, LINK}):
            self._keep_best(peaks.flops, dtype, _gemms(bench, dtype), dtype)
        if MEMORY in needed:
            for name in WRITE_SHARES:
                self._keep_best(peaks.memory, name, _streams(bench, name), MEMORY)
        if LINK in needed:
            best = dict[str, Peak]()
            bench.rules = RULES
            self._keep_best(best, LINK, _links(bench), LINK)
            peaks.link = best.get(LINK)

    def _keep_best(self, best: dict[str, Peak], name: str, tries: Iterable[_Tried], what: str) -> None:
        """The fastest of `tries` and of what is there, which has been looked at once more."""
        looks, reasons = best[name].looks if name in best else 0, []
        for tried in tries:
            if tried.peak is None:
                reasons.append(tried.reason)
            elif name not in best or tried.peak.per_s > best[name].per_s:
                best[name] = tried.peak
        if name in best:
            best[name] = msgspec.structs.replace(best[name], looks=LOOKS if self._bench.rules == RULES else looks + 1)
        else:
            self.peaks.missing[what] = "; ".join(reasons) or "nothing fits into memory"


class _Tried(NamedTuple):
    """One case: its best call in seconds and the peak it gives, or why it has none."""

    peak: Peak | None
    call_s: float
    reason: str


def _fastest_s(timed: Timed) -> float:
    return min(timed.samples_ns) / timed.calls / 1e9


class _Bench:
    def __init__(self, settings: Settings, makers: dict[str, Callable[[Settings], CaseRunner]], says: Callable[[str], None]) -> None:
        self.settings, self.kind = settings, settings.device.partition(":")[0]
        self.rules = SHORT_RULES
        self._makers, self._says = makers, says
        self._runners: dict[str, CaseRunner] = {}

    def tried(self, op: str, provider: str, given: Arguments, counted: Callable[[Cost, Outcome], float], cache_bytes: int = 0) -> _Tried:
        """Run one case. `counted(cost, outcome)` is what a call moves or computes."""
        operator = OPERATORS[op]
        try:
            args = validate(operator, given)
        except BadCase as bad:
            return _Tried(None, 0.0, str(bad))
        if operator.runner not in self._runners:
            runner = self._makers[operator.runner](self.settings)
            runner.hello()
            self._runners[operator.runner] = runner
        case = Case(op=op, provider=provider, args=args)
        self._says(f"measuring this machine's peaks: {case.key}")
        job = msgspec.structs.replace(self.settings, rules=self.rules, cache_bytes=cache_bytes).job(case)
        outcome = self._undisturbed(self._runners[operator.runner], job)
        if outcome.timed is None:
            return _Tried(None, 0.0, f"{provider}: {outcome.reason}")
        call_s = _fastest_s(outcome.timed)
        per_s = counted(operator.cost(args), outcome) / call_s
        peak = Peak(
            per_s=per_s,
            case=case_text(op, args),
            provider=provider,
            samples=len(outcome.timed.samples_ns),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            note=outcome.note,
            others_cpus=outcome.conditions.others_cpus if outcome.conditions else None,
            spread=median(outcome.timed.samples_ns) / min(outcome.timed.samples_ns) - 1,
            args=args,
        )
        return _Tried(peak, call_s, "")

    def _undisturbed(self, runner: CaseRunner, job: Job) -> Outcome:
        """The best of some tries where other processes are busy; one where they aren't, or where later sweeps look again."""
        best = runner.run(job, LIMIT_S)
        for _ in range(BUSY_TRIES - 1 if self.rules == RULES else 0):
            if best.timed is None or best.conditions is None or (best.conditions.others_cpus or 0.0) < BUSY_CPUS:
                break
            again = runner.run(job, LIMIT_S)
            if again.timed is not None and _fastest_s(again.timed) < _fastest_s(best.timed):
                best = again
        return best

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()


def _product(bench: _Bench, provider: str, args: Arguments) -> _Tried:
    return bench.tried("gemm", provider, args, lambda cost, _: cost.flops)


def _gemms(bench: _Bench, dtype: str) -> Iterator[_Tried]:
    """Every provider, each from small to large."""
    limit = bench.settings.max_memory_bytes
    for provider in GEMM_PROVIDERS:
        size = FIRST_SIZE.get(bench.kind, FIRST_SIZE["cuda"])
        while size <= LAST_SIZE and (limit is None or 40 * size * size < limit):  # float64 references beside the matrices
            tried = _product(bench, provider, {"M": size, "K": size, "N": size, "dtype": dtype})
            yield tried
            if tried.peak is None or tried.call_s > ENOUGH_S:
                break
            size *= 2


def _streams(bench: _Bench, name: str) -> Iterator[_Tried]:
    cache = last_level_cache_bytes(bench.settings.threads) if bench.kind == "cpu" else GPU_CACHE_BYTES
    for size in STREAM_VALUES.get(bench.kind, STREAM_VALUES["cuda"]):
        given = {"size": size, "dtype": "float32"}
        yield bench.tried(name, "torch", given, lambda cost, _: cost.read_bytes + cost.write_bytes, cache_bytes=cache)


def _links(bench: _Bench) -> Iterator[_Tried]:
    for values in LINK_VALUES:
        given = {"world_size": 2, "batch_size": 1, "dim_size": values, "dtype": "float32"}
        yield bench.tried("p2p", "torch", given, lambda _, outcome: outcome.link_bytes or 0)
