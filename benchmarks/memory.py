"""How much memory a run holds, and whether it grows with the number of requests.

    BMP_TOOLS=folder python benchmarks/memory.py [--requests 10000,100000,1000000x4] [--events-per-write 16]

Shows, for runs of so many requests of 128 tokens (or as many as stand after the x): the peak RSS while the load
runs, and how much it grew for each request from a tenth of the run to its end; the peak of the whole process
(the summary at the end included); the time and peak of `bmp-llm summarize` on the run; and the growth per
request from one run to a larger one of the same length. Bounds: 100 MB at 10,000 requests; while the
load runs, less than 150 MB and no growth (here: under 20 bytes a request); a summary under 1 GB and, scaled
to a million requests, under a minute.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from harness import OURS, Ran, judged, median, mock_server, run_pinned, say_machine, scenario_for

STREAMS, TOKENS = 64, 128
SMALL_BOUND_MB, LOAD_BOUND_MB, GROWTH_BOUND_BYTES = 100, 150, 20
SUMMARY_BOUND_MB, SUMMARY_BOUND_S = 1000, 60
MILLION = 1_000_000
SCALED_FROM = 100_000  # requests; in a smaller summary the start of the interpreter is most of it


class Held(NamedTuple):
    """Peaks in MB; `log_mb` is the record log's size."""

    requests: int
    tokens: int
    load_mb: float
    growth_bytes: float
    whole_mb: float
    summary: Ran
    log_mb: float


class LoadPeak:
    """Watches a run's RSS until its run.json has an end, which is when the load is over; beside each look, the
    record log's size tells how far the run was."""

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        self.peak_mb = 0.0
        self.over = False
        self._looks: list[tuple[int, float]] = []

    def __call__(self, process_id: int) -> None:
        if self.over:
            return
        text = Path(f"/proc/{process_id}/status").read_text()
        rss_kb = next((int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")), 0)
        self.over = any('"end":' in path.read_text() for path in self._runs_dir.glob("*/run.json"))
        if not self.over:
            self.peak_mb = max(self.peak_mb, rss_kb / 1e3)
            self._looks.append((sum(log.stat().st_size for log in self._runs_dir.glob("*/records*.jsonl")), rss_kb * 1024))

    def growth_bytes(self, requests: int, log_bytes: int) -> float:
        """RSS a request, from the looks of the run's second tenth to those of its last: medians, since RSS jumps by pages."""
        early, late = ([rss for at, rss in self._looks if low <= at / log_bytes <= high] for low, high in ((0.1, 0.2), (0.9, 1.0)))
        return (median(late) - median(early)) / (0.8 * requests) if early and late else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", default="10000,100000", help="N or NxTOKENS, with commas between")
    parser.add_argument("--events-per-write", type=int, default=16, help="1: one token per read, as slow as the server allows")
    arguments = parser.parse_args()
    say_machine()
    with mock_server(1, 0 if arguments.events_per_write > 1 else 1, arguments.events_per_write) as server:
        held = [measure(server.url, *_asked(text)) for text in arguments.requests.split(",")]
    for before, after in pairwise(held):
        if before.tokens != after.tokens:
            continue
        more = after.requests - before.requests
        growth = (after.load_mb - before.load_mb) * 1e6 / more
        whole = (after.whole_mb - before.whole_mb) * 1e6 / more
        judgement = judged(growth, GROWTH_BOUND_BYTES)
        print(f"growth from {before.requests} to {after.requests}: {growth:.0f} bytes a request under load, {judgement}")
        print(f"  with the summary at the end: {whole:.0f} bytes a request")


def _asked(text: str) -> tuple[int, int]:
    requests, _, tokens = text.partition("x")
    return int(requests), int(tokens or TOKENS)


def measure(url: str, requests: int, tokens: int) -> Held:
    with tempfile.TemporaryDirectory(prefix="bmp-benchmark-") as folder:
        watch = LoadPeak(Path(folder))
        flags = ["--scenario", scenario_for(), "--num-warmups", "0", "--max-concurrency", str(STREAMS), "--output-len", str(tokens)]
        fixed = [*OURS, "serve-bench", "--engine", "openai", "--base-url", url, "-q", "--no-report", "--runs-dir", folder]
        ran = run_pinned([*fixed, *flags, "--num-prompts", str(requests)], watch=watch)
        (run,) = Path(folder).iterdir()
        outcomes = json.loads((run / "summary.json").read_text())["outcomes"]
        summary = run_pinned([*OURS, "summarize", str(run)])
        log_bytes = sum(log.stat().st_size for log in run.glob("records*.jsonl"))
        growth_bytes = watch.growth_bytes(requests, log_bytes)
    held = Held(requests, tokens, watch.peak_mb, growth_bytes, ran.peak_mb, summary, log_bytes / 1e6)
    show(held, ran, outcomes["ok"])
    return held


def show(held: Held, ran: Ran, ok: int) -> None:
    print(f"\n{held.requests} requests of {held.tokens} tokens ({ok} ok, {ran.wall_s:.0f} s, log {held.log_mb:.0f} MB)")
    bound = SMALL_BOUND_MB if held.requests <= 10_000 else LOAD_BOUND_MB
    print(f"  under load {held.load_mb:.0f} MB: {judged(held.load_mb, bound)}; whole process {held.whole_mb:.0f} MB")
    print(f"  growth within the run: {held.growth_bytes:.1f} bytes a request, {judged(held.growth_bytes, GROWTH_BOUND_BYTES)}")
    million_s = held.summary.wall_s * MILLION / held.requests
    scaled = f"; for a million {million_s:.0f} s: {judged(million_s, SUMMARY_BOUND_S)}" if held.requests >= SCALED_FROM else ""
    summary = f"{held.summary.wall_s:.1f} s, {held.summary.peak_mb:.0f} MB: {judged(held.summary.peak_mb, SUMMARY_BOUND_MB)}"
    print(f"  summarize: {summary}{scaled}", flush=True)


if __name__ == "__main__":
    main()
