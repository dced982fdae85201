"""What a streamed token costs this client, against a C client that only reads.

    BMP_TOOLS=folder python benchmarks/cpu_per_token.py [--rounds 3] [--quick]

Shows, with client and server on a core each, alternating C and ours, medians of the rounds' ratios:

- one token per chunk, 64 and 256 streams of 128 tokens: CPU-seconds per million tokens (bound: 1.6 × C),
  with Poisson arrivals that keep about as many streams open, the same for both, and in a closed loop;
- a whole answer of 128 tokens per read: CPU-seconds per million tokens (bound: 2.5);
- one-token answers: requests per second of one core (bound: 20,000).

The pace is such that the server isn't saturated and a read brings one token; `tok/read` checks it.
What a token costs is mostly what waking up for it costs, so it depends on how many tokens come at the
same moment. In a closed loop that is each client's own doing: the C client sends its next request at
once, so its streams stay in step and one wake-up brings ten tokens; let it start them 0.14 ms apart and
it costs a quarter more. With the same arrivals both wake up about as often.
`loop` is the busy time of the event loop and of the thread that reads for it, while the load runs (reading, stamping, decoding, records on
disk, live metrics). `whole` is what more requests add to all that the process used, its final summary included: the difference to
a run of a tenth of them, so that starting up and what a summary costs at any size drop out, as in the comparison with
peers. Both are held against the bound.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from harness import Run, c_client, judged, median, mock_server, our_run, say_machine


class Case(NamedTuple):
    name: str
    ttft_ms: float
    itl_ms: float
    events_per_write: int
    streams: int
    tokens: int
    requests: int
    rate: float = 0.0  # of Poisson arrivals; 0 is a closed loop


CASES = (
    Case("one token per chunk, some 64 streams", 1, 1, 1, 64, 128, 4_000, rate=497),
    Case("one token per chunk, some 256 streams", 1, 4, 1, 256, 128, 4_000, rate=491),
    Case("one token per chunk, 64 streams in a closed loop", 1, 1, 1, 64, 128, 4_000),
    Case("one token per chunk, 256 streams in a closed loop", 1, 4, 1, 256, 128, 4_000),
    Case("whole answer per read", 1, 0, 1000, 64, 128, 20_000),
    Case("one-token answers", 0, 0, 1, 64, 1, 60_000),
)
TOKEN_BOUND_OF_C, WHOLE_ANSWER_BOUND, REQUEST_BOUND = 1.6, 2.5, 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round with a quarter of the requests")
    arguments = parser.parse_args()
    say_machine()
    for case in CASES:
        if arguments.quick:
            measure(case._replace(requests=case.requests // 4), 1)
        else:
            measure(case, arguments.rounds)


def measure(case: Case, rounds: int) -> None:
    """One case, alternating."""
    load = f"{case.rate:g} requests/s" if case.rate else f"{case.streams} streams"
    print(f"\n{case.name}: {load}, {case.requests} requests of {case.tokens} tokens")
    ratios, whole_ratios, loops = [], [], []
    with mock_server(case.ttft_ms, case.itl_ms, case.events_per_write) as server:
        for _ in range(rounds):
            floor = c_client(server.port, case.streams, case.requests, case.tokens, case.rate)
            load = ("--request-rate", case.rate) if case.rate else ("--max-concurrency", case.streams)
            few, ours = (
                our_run(server.url, *load, "--output-len", case.tokens, "--num-prompts", count, keep_records=True)
                for count in (case.requests // 10, case.requests)
            )
            c_cost, loop_cost = floor["cpu"] / floor["tokens"] * 1e6, ours.loop_cpu_s / ours.tokens * 1e6
            whole_cost = (ours.ran.cpu_s - few.ran.cpu_s) / (ours.tokens - few.tokens) * 1e6
            ratios.append(loop_cost / c_cost)
            whole_ratios.append(whole_cost / c_cost)
            loops.append(loop_cost)
            show(case, floor, ours, c_cost, loop_cost, whole_cost)
    verdict(case, ratios, whole_ratios, loops)


def show(case: Case, floor: dict[str, float], ours: Run, c_cost: float, loop_cost: float, whole_cost: float) -> None:
    reads = sum(sum(1 for tokens in record["tokens_per_chunk"] if tokens) for record in ours.records)
    print(
        f"  C {c_cost:6.2f} s/Mtok, {floor['rps']:8,.0f} req/s | ours: loop {loop_cost:6.2f}, whole {whole_cost:6.2f} s/Mtok, "
        f"{ours.ok / ours.duration_s:8,.0f} req/s, loop {ours.run['facts']['loop_utilisation']:.0%} busy, "
        f"{ours.tokens / max(reads, 1):.2f} tok/read, {ours.ok} of {case.requests} ok, {ours.ran.peak_mb:.0f} MB",
        flush=True,
    )


def verdict(case: Case, ratios: list[float], whole_ratios: list[float], loops: list[float]) -> None:
    ratio, whole, loop = median(ratios), median(whole_ratios), median(loops)
    if case.tokens == 1:
        per_core = 1e6 / loop
        print(f"  {per_core:,.0f} requests/s per core of loop time: {judged(per_core, REQUEST_BOUND, at_least=True)}")
    elif case.events_per_write > 1:
        print(f"  {loop:.2f} CPU-s per million tokens: {judged(loop, WHOLE_ANSWER_BOUND)}")
    else:
        print(f"  under load {ratio:.2f} × C: {judged(ratio, TOKEN_BOUND_OF_C)}; whole {whole:.2f} × C: {judged(whole, TOKEN_BOUND_OF_C)}")


if __name__ == "__main__":
    main()
