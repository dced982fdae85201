"""What hostile answers do to the figures of honest requests that share their event loop.

    python -m benchmarks.bad_company [--seconds 8]

Honest requests at 100 a second (reference server, TTFT 20 ms, ITL 5 ms, 16 tokens) run alone, then beside each
group of the misbehaviours in `tests/hostile/behaviours.py`: answers that are broken in every way, lines
of 100 MB, compression bombs, heads without end, streams that stall. Shows TTFT from planned (p50, p99, maximum) and how
late the honest ones were sent. Bound: p50 within 0.5 ms of the clean run before it; the rest is for the reader, since
a bad server in the client's neighbourhood takes processor time of its own here.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import NamedTuple

from benchmarks.harness import judged, percentile, reference_server, say_machine
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.pacer import real_pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.worker import Worker, WorkerConfig
from bytemlperf_llm.workload.schedule import Planned
from engines.contract import Model
from engines.openai.engine import OpenAIEngine
from tests.hostile.behaviours import BEHAVIOURS
from tests.virtual import Collected, make_request

NS_PER_S, NS_PER_MS = 1_000_000_000, 1e6
RATE, TTFT_MS, ITL_MS, TOKENS = 100, 20, 5, 16
P50_BOUND_MS = 0.5
HUGE = ("long_line", "bomb", "header_bomb", "header_line_bomb", "drip")
BROKEN = tuple(name for name, behaviour in BEHAVIOURS.items() if behaviour.limit is None and name not in HUGE)
COMPANY = {
    "broken in every way": BROKEN * 2,
    "lines of 100 MB": ("long_line",) * 3,
    "compression bombs": ("bomb",) * 3,
    "heads without end": ("header_bomb", "header_line_bomb") * 3,
    "stalls": ("endless", "stall", "pings_only", "drip"),
}
EACH, AT_ONCE = 4, 2  # requests of a misbehaviour, and how many of them at once
LIMITS = Timeouts(first_token_ns=NS_PER_S // 2, idle_ns=NS_PER_S // 2, total_ns=NS_PER_S)
HOSTILE = """
import asyncio
from tests.hostile.server import HostileServer, Settings

async def main():
    async with HostileServer(Settings()) as server:
        print(server.url, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


class Seen(NamedTuple):
    """Of the honest requests, in ms."""

    ttft_ms: list[float]
    late_ms: list[float]
    bad: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    seconds = parser.parse_args().seconds
    say_machine()
    hostile = subprocess.Popen([sys.executable, "-c", HOSTILE], stdout=subprocess.PIPE, text=True)
    assert hostile.stdout is not None
    hostile_url = hostile.stdout.readline().strip()
    try:
        with reference_server(TTFT_MS, ITL_MS) as server:
            for name, company in COMPANY.items():
                clean = asyncio.run(measure(server.url, hostile_url, (), seconds))
                show("alone", clean, None)
                show(name, asyncio.run(measure(server.url, hostile_url, company, seconds)), clean)
    finally:
        hostile.kill()
        hostile.wait()


async def measure(url: str, hostile_url: str, company: tuple[str, ...], seconds: float) -> Seen:
    """Honest requests for so long, the company one after the other meanwhile."""
    honest, bad = Collected(), Collected()
    async with AsyncExitStack() as stack:
        engine = OpenAIEngine()
        stack.push_async_callback(engine.close)
        await engine.start(None, {"base_url": url})
        worker = Worker(engine, honest, real_pacer(), WorkerConfig())
        planned = (Planned(make_request(i, TOKENS), i * NS_PER_S // RATE) for i in range(round(seconds * RATE)))
        meanwhile = asyncio.ensure_future(misbehave(hostile_url, company, bad))
        await worker.run_open(planned, monotonic_ns() + NS_PER_S // 4)
        await meanwhile
    answered = [record for record in honest.records if record.outcome == "ok"]
    assert len(answered) == len(honest.records), "an honest request failed"
    firsts = [next(stamp for stamp, tokens in zip(each.chunk_ns, each.tokens_per_chunk, strict=True) if tokens) for each in answered]
    ttft_ms = [(first - each.planned_ns) / NS_PER_MS for first, each in zip(firsts, answered, strict=True)]
    return Seen(ttft_ms, [(each.sent_ns - each.planned_ns) / NS_PER_MS for each in answered], len(bad.records))


async def misbehave(url: str, company: tuple[str, ...], sink: Collected) -> None:
    for name in company:
        engine = OpenAIEngine()
        await engine.start(Model(name=name), {"base_url": url})
        worker = Worker(engine, sink, real_pacer(), WorkerConfig(timeouts=LIMITS))
        await worker.run_closed((make_request(i, TOKENS) for i in range(EACH)), AT_ONCE, monotonic_ns())
        await engine.close()


def show(name: str, seen: Seen, clean: Seen | None) -> None:
    ttft, late = (
        f"{percentile(values, 50):8.2f} {percentile(values, 99):8.2f} {max(values):8.2f}" for values in (seen.ttft_ms, seen.late_ms)
    )
    verdict = "" if clean is None else f"   p50 {judged(percentile(seen.ttft_ms, 50) - percentile(clean.ttft_ms, 50), P50_BOUND_MS)}"
    print(f"{name:20} TTFT p50, p99, max {ttft} ms; sent late {late} ms; {seen.bad:4} bad ones{verdict}", flush=True)


if __name__ == "__main__":
    main()
