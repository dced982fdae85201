"""Very many slow streams at once: what the client holds, and whether it says so when it can't.

    BMP_TOOLS=folder python benchmarks/many_streams.py [--streams 10000] [--workers 1,2] [--seconds 20]

Opens the streams within five seconds (Poisson), each 10 tokens per second for some 20 s, and shows: the
verdict and its reasons, tokens per second received while all streamed and so how many streams were
held at their pace, the loop's busy share, the tail of the client's own lateness and of ITL, and memory. Raises
the soft limit of open files to the hard one and says when even that is too few. With one worker the client
has one core, with more all but the server's, or all where there are two.
"""

from __future__ import annotations

import argparse
import os
import resource

from harness import OURS, Run, cores, mock_server, our_run, run_pinned, say_machine

from bytemlperf.units import NS_PER_MS

TOKENS_PER_S = 10
RAMP_S = 5.0
TTFT_MS, SPARE_FILES = 1000, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    say_machine()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    streams = arguments.streams
    if hard < streams + SPARE_FILES:
        streams = hard - SPARE_FILES
        print(f"the hard limit of open files is {hard}: {streams} streams instead of {arguments.streams}")
    has_workers = "--workers" in run_pinned([*OURS, "serve-bench", "--help"]).stdout
    for text in arguments.workers.split(","):
        if text != "1" and not has_workers:
            print("\nthis version has no --workers")
            continue
        with mock_server(TTFT_MS, 1000 / TOKENS_PER_S) as server:
            measure(server, streams, int(text), arguments.seconds)


def measure(server, streams: int, workers: int, seconds: float) -> None:
    tokens = round((seconds + RAMP_S) * TOKENS_PER_S)
    flags = ["--request-rate", streams / RAMP_S, "--num-prompts", streams, "--output-len", tokens, "--total-timeout", 600, "--drain", 60]
    flags += ["--workers", workers] if workers > 1 else []
    usable = sorted(os.sched_getaffinity(0))
    core = cores()[0] if workers == 1 else usable if len(usable) < 3 else usable[:-1]
    run = our_run(server.url, *flags, core=core, keep_records=True)
    show(run, server.stats(), streams, workers)


def show(run: Run, stats: dict, streams: int, workers: int) -> None:
    summary = run.summary
    failures = {name: found["count"] for name, found in summary["failures"].items()}
    per_s, span_s = together(run.records)
    itl, late = summary["metrics"].get("itl", {}), summary["metrics"].get("client_lateness", {})
    print(f"\n{streams} streams asked, {workers} worker(s): {summary['verdict'].upper()}")
    for reason in summary["reasons"]:
        print(f"  because {reason}")
    print(f"  {summary['outcomes']['ok']} ok, failures {failures}, server saw {stats['max_active']} at once")
    print(
        f"  all streams together for {span_s:.1f} s: {per_s:,.0f} tokens/s = {per_s / TOKENS_PER_S:,.0f} streams held "
        f"at {TOKENS_PER_S} tokens/s; loop {run.run['facts']['loop_utilisation']:.0%} busy"
    )
    print(f"  ITL asked {1000 / TOKENS_PER_S:g} ms: {tail(itl)}; sent late {tail(late)}")
    served = stats["itl_ms"]
    print(f"  server's own ITL p50 {served['p50']} p99 {served['p99']} ms; {run.ran.peak_mb:.0f} MB, {run.ran.wall_s:.0f} s", flush=True)


def together(records: list[dict]) -> tuple[float, float]:
    """Tokens per second from the last first token to the first end, when all were streaming, and those
    seconds; zeros where there was no such time, since some were late by all of their stream's length."""
    streaming = [record for record in records if record["chunk_ns"]]
    begin_ns = max((record["chunk_ns"][0] for record in streaming), default=0)
    end_ns = min((record["chunk_ns"][-1] for record in streaming), default=0)
    if end_ns <= begin_ns:
        return 0.0, 0.0
    tokens = sum(
        count
        for record in streaming
        for stamp, count in zip(record["chunk_ns"], record["tokens_per_chunk"], strict=True)
        if begin_ns < stamp <= end_ns
    )
    return tokens / (end_ns - begin_ns) * 1e9, (end_ns - begin_ns) / 1e9


def tail(metric: dict) -> str:
    found = metric.get("percentiles", {})
    shown = (f"p{name} {found[name] / NS_PER_MS:.2f} ms" for name in ("50", "99") if isinstance(found.get(name), int))
    return ", ".join(shown) or "–"


if __name__ == "__main__":
    main()
