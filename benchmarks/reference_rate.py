"""Our client beside a bare aiohttp loop that only reads the stream, both against the reference server.

    python benchmarks/reference_rate.py [--rounds 3] [--quick]

Alternating in one run, on a core each for server and client, medians of the rounds' ratios:

- tokens per second with 64 streams as fast as the server can write;
- CPU-seconds per million streamed tokens at a pace that the server keeps (TTFT 5 ms, ITL 4 ms, 64 streams).

Ours is the event loop's busy time of a whole run (stamps, decoding, records on disk, live metrics); the
bare loop posts the same kind of body, iterates over the answer's bytes and does nothing with them but
count events. Needs no C tools: the server is the package's own, and is the limit of the first figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from harness import Run, Server, median, our_run, reference_server, run_pinned, say_machine

STREAMS, TOKENS = 64, 128
PACES = (("as fast as it goes", 0.0, 0.0, 2_000), ("64 streams at 250 tokens/s", 5.0, 4.0, 1_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round with a quarter of the requests")
    parser.add_argument("--bare", nargs=2, metavar=("URL", "REQUESTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        bare(arguments.bare[0], int(arguments.bare[1]))
        return
    say_machine()
    for name, ttft_ms, itl_ms, requests in PACES:
        print(f"\n{name}: {STREAMS} streams of {TOKENS} tokens")
        with reference_server(ttft_ms, itl_ms) as server:
            measure(server, requests // 4 if arguments.quick else requests, 1 if arguments.quick else arguments.rounds)


def measure(server: Server, requests: int, rounds: int) -> None:
    speeds, costs = [], []
    for _ in range(rounds):
        ran = run_pinned([sys.executable, __file__, "--bare", server.url, str(requests)])
        plain = json.loads(ran.stdout)
        ours = our_run(server.url, "--max-concurrency", STREAMS, "--num-prompts", requests, "--output-len", TOKENS)
        speeds.append(ours.tokens / ours.duration_s / (plain["tokens"] / plain["wall_s"]))
        costs.append(ours.loop_cpu_s / ours.tokens / (plain["cpu_s"] / plain["tokens"]))
        show(plain, ours)
    print(f"  ours / aiohttp: {median(speeds):.2f} × the tokens per second, {median(costs):.2f} × the CPU per token")


def show(plain: dict, ours: Run) -> None:
    print(
        f"  aiohttp {plain['tokens'] / plain['wall_s']:9,.0f} tokens/s, {plain['cpu_s'] / plain['tokens'] * 1e6:6.2f} CPU-s/Mtok | "
        f"ours {ours.tokens / ours.duration_s:9,.0f} tokens/s, {ours.loop_cpu_s / ours.tokens * 1e6:6.2f} CPU-s/Mtok, {ours.ok} ok",
        flush=True,
    )


def bare(url: str, requests: int) -> None:
    """In a child of its own: only read."""
    import uvloop

    print(json.dumps(uvloop.run(_bare(url, requests))))


async def _bare(url: str, requests: int) -> dict[str, float]:
    import aiohttp

    body = {"model": "reference", "messages": [{"role": "user", "content": "hello " * 20}], "max_tokens": TOKENS, "stream": True}
    left, events = iter(range(requests)), 0
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def lane() -> None:
            nonlocal events
            for _ in left:
                async with session.post("/v1/chat/completions", json=body) as response:
                    async for data in response.content.iter_any():
                        events += data.count(b"data: {")

        begin_s, cpu_s = time.monotonic(), time.process_time()
        await asyncio.gather(*(lane() for _ in range(STREAMS)))
        return {"tokens": events, "wall_s": time.monotonic() - begin_s, "cpu_s": time.process_time() - cpu_s}


if __name__ == "__main__":
    main()
