"""`bmp-llm audit cache`: does a prompt that comes again have its answer sooner than one that was never sent? After MLPerf's caching test
(LoadGen's TEST04, by which a repeated sample may be 10 % faster at most).

Pairs of requests go one after the other, in a random order within each pair: one prompt again and again, and one as long that was
never sent before. A prefix cache saves the time to the first token; the time from there to the last is saved by kept answers alone.
Each is compared by the ratio of means with its 95 % interval, and counts as faster where the whole interval is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from bytemlperf.arrivals import seeded
from bytemlperf.command.console import print_sections, print_text, sayer, terminal
from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor, option_secrets
from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Table
from bytemlperf.statistics.statistics import ratio
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.recorder import ClockNs, monotonic_ns
from bytemlperf_llm.loadgen.replay import worker_config
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.metrics.definitions import token_times
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.preflight import Kept
from bytemlperf_llm.run.started import started_engine
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.salt import fresh_salt
from bytemlperf_llm.workload.schedule import ALL, Schedule
from engines.contract import Engine, Request

FASTER = 0.10
"""MLPerf's limit."""
REQUESTS, INPUT_TOKENS, OUTPUT_TOKENS = 60, 1_000, 32
MIN_PAIRS = 10
NO_CACHING, PREFIX_CACHE, KEPT_ANSWERS = "no caching seen", "prefix cache", "responses are cached"
EXIT_SEEN = 1


class Timed(NamedTuple):
    """One answer: ns from sending to the first token, from there to the last, and the prompt's cached tokens as reported."""

    first_ns: int
    rest_ns: int
    cached_tokens: int | None


class Faster(NamedTuple):
    """How long a repeated prompt takes in parts of one that was never sent, with its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether it is more than 10 % faster, wherever in the interval the truth is."""
        return self.high < 1 - FASTER

    def text(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} – {self.high:.3f})"


class Audit(NamedTuple):
    """Of `first` token and `rest` of the answer; `reported`: the server itself says that repeated prompts were cached."""

    unique: Sequence[Timed]
    repeated: Sequence[Timed]
    first: Faster
    rest: Faster
    reported: bool

    @property
    def verdict(self) -> str:
        if self.rest.certain:
            return KEPT_ANSWERS
        return PREFIX_CACHE if self.first.certain or self.reported else NO_CACHING


def audit_cache(flags: Flags) -> int:
    """Print what was seen; the exit status, 1 where there is caching. Raises UserError."""
    lengths = {"input_len": flags.input_len or INPUT_TOKENS, "output_len": flags.output_len or OUTPUT_TOKENS}
    plan = resolve(flags.changed(**lengths, num_warmups=0, num_prompts=flags.num_prompts or REQUESTS, max_concurrency=1))
    redactor = Redactor(option_secrets(plan.engine.options))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        audit = runner.run(_audited(plan, redactor, flags.quiet))
    console = terminal()
    print_sections(console, [] if flags.quiet else [_table(audit)])
    print_text(console, audit.verdict, title="verdict")
    return 0 if audit.verdict == NO_CACHING else EXIT_SEEN


async def _audited(plan: Plan, redactor: Redactor, quiet: bool) -> Audit:
    say, seed = sayer(quiet=quiet, clean=redactor), plan.load.seed
    async with started_engine(plan, redactor, say) as started:
        plan = await started.ready(plan)
        scenario = plan.load.scenario.override({"prompts.salt": fresh_salt()})
        pairs = max((scenario.num_requests or REQUESTS) // 2, MIN_PAIRS)
        say(f"{2 * pairs} requests, one after the other: a prompt that repeats against prompts that were never sent")
        timeouts = worker_config(scenario, ALL, keep_output=False).timeouts
        return audit_of(await pair_records(started.engine, Schedule(scenario, seed).workload(), pairs, seed, timeouts))


async def pair_records(
    engine: Engine, workload: Workload, pairs: int, seed: int, timeouts: Timeouts, now: ClockNs = monotonic_ns
) -> list[RequestRecord]:
    """Records in the order of sending; `turn` is 1 where the prompt was sent before. The first pair warms up, and has none."""
    kept = Kept()
    worker = Worker(engine, kept, Pacer(now), WorkerConfig(timeouts=timeouts), now=now)
    await worker.run_closed(_requests(workload, pairs, seed), 1, now())
    return [record for record in kept.records if record.index > 1]


def _requests(workload: Workload, pairs: int, seed: int) -> Iterator[Request]:
    draw, repeated = seeded.stream(seed, "audit"), workload.request(0)
    for pair in range(pairs + 1):
        both = [(workload.request(pair + 1), 0), (repeated, 1)]
        for place, (request, turn) in enumerate(both if draw() < 0.5 else reversed(both)):
            index = 2 * pair + place
            yield msgspec.structs.replace(
                request, index=index, id=f"{repeated.id}-audit-{index}", max_tokens=repeated.max_tokens, turn=turn
            )


def audit_of(records: Sequence[RequestRecord]) -> Audit:
    """Raises UserError where too few were answered."""
    unique, repeated = ([_timed(record) for record in records if record.turn == turn and record.outcome == "ok"] for turn in (0, 1))
    if min(len(unique), len(repeated)) < MIN_PAIRS:
        failed = next((record for record in records if record.outcome != "ok"), None)
        why = f", {failed.error_class}: {failed.error_detail}" if failed else ""
        raise UserError(f"only {len(unique) + len(repeated)} of {len(records)} requests had a response{why}", "look at the server's log")
    cached = [each.cached_tokens or 0 for each in unique], [each.cached_tokens or 0 for each in repeated]
    prompts = [record.prompt_tokens or 0 for record in records if record.outcome == "ok"]
    more = sum(cached[1]) / len(cached[1]) - sum(cached[0]) / len(cached[0])
    return Audit(
        unique,
        repeated,
        _faster([each.first_ns for each in repeated], [each.first_ns for each in unique]),
        _faster([each.rest_ns for each in repeated], [each.rest_ns for each in unique]),
        reported=more > FASTER * sum(prompts) / len(prompts),
    )


def _timed(record: RequestRecord) -> Timed:
    stamps = token_times(record).stamps_ns
    first_ns, last_ns = (stamps[0], stamps[-1]) if stamps else (record.end_ns, record.end_ns)
    return Timed(first_ns - (record.sent_ns or 0), last_ns - first_ns, record.cached_tokens)


def _faster(repeated: Sequence[int], unique: Sequence[int]) -> Faster:
    """A tenth of a millisecond more of each: answers that come at once differ by what a read costs."""
    value, low, high = ratio([each + NS_PER_MS // 10 for each in repeated], [each + NS_PER_MS // 10 for each in unique])
    assert low is not None
    assert high is not None
    return Faster(value, low, high)


def _table(audit: Audit) -> Table:
    rows = []
    for name, part, faster in (("first token", "first_ns", audit.first), ("first to last token", "rest_ns", audit.rest)):
        means = [sum(getattr(each, part) for each in group) / len(group) / NS_PER_MS for group in (audit.unique, audit.repeated)]
        rows.append([f"time to {name}, ms" if part == "first_ns" else f"{name}, ms", *map(number, means), faster.text()])
    cached = [[each.cached_tokens for each in group if each.cached_tokens is not None] for group in (audit.unique, audit.repeated)]
    if all(cached):
        rows.append(["cached prompt tokens, as reported", *(number(sum(counts) / len(counts)) for counts in cached), ""])
    note = f"Means of {len(audit.unique)} and {len(audit.repeated)} responses. More than {FASTER:.0%} faster is caching."
    return Table(title="", columns=["", "never sent", "repeated", "ratio (95 % interval)"], rows=rows, note=note)
