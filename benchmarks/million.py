"""How long do summary, page, comparison and exports of a million requests of 128 tokens take, and how much memory?

Writes a synthetic run (a steady open loop) into a temporary folder, does each step in a process of its own, and prints its time and
peak resident memory.
The folder is deleted afterwards; it needs 2.5 GB for a million.

    python benchmarks/million.py [--requests 1000000] [--tokens 128] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

import msgspec

from bytemlperf.runs.files import pack_logs, record_logs
from bytemlperf.runs.folder import FORMAT_VERSION, write_json
from bytemlperf.units import NS_PER_MS, NS_PER_S
from bytemlperf_llm.metrics.facts import RunFacts, SloMs
from bytemlperf_llm.record.record import RequestRecord

RATE = 2_000.0
GAPS_KEPT = 1 << 16
BATCH = 1_000
FREE_BYTES_PER_TOKEN = 24

PROGRAM = """
import resource, sys, time
from pathlib import Path
from bytemlperf.compare.comparison import compare_all, gather
from bytemlperf.export.perfetto import export_timeline
from bytemlperf.report.write import write_report
from bytemlperf.runs.folder import write_json
from bytemlperf.runs.kinds import run_kind
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import summarise_suite, verify_suite
from bytemlperf_llm.export.files import Files, export
folder, what, started = Path(sys.argv[1]), sys.argv[2], time.monotonic()
if what == "summary":
    write_json(folder / "summary.json", summarise_suite(folder))
elif what == "summary and page":
    records = RunRecords(folder, run_kind("llm").record)
    write_json(folder / "summary.json", summarise_suite(folder, records=records))
    write_report(folder, records=records)
elif what == "verify":
    verify_suite(folder)
elif what == "compare":
    views = gather([folder, folder])[0]
    compare_all(views, views[0])
elif what == "parquet":
    export(folder, Files(csv=False, parquet=True, llm_d=False, vllm=None, traces_url=None))
else:
    print(export_timeline(folder), (folder / "timeline.perfetto-trace").stat().st_size / 1e6, "MB")
usage = resource.getrusage(resource.RUSAGE_SELF)
print(f"{what}: {time.monotonic() - started:.1f} s, {usage.ru_utime + usage.ru_stime:.1f} s of CPU, peak {usage.ru_maxrss / 1024:.0f} MiB")
"""
STEPS = ("summary", "summary and page", "verify", "compare", "parquet", "timeline")


def main() -> int:
    """Print one line for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        folder = Path(place)
        if shutil.disk_usage(folder).free < asked.requests * (asked.tokens + 30) * FREE_BYTES_PER_TOKEN:
            print(f"not enough room in {folder}: name another place with --folder", file=sys.stderr)
            return 1
        started = time.monotonic()
        size = write_run(folder, asked.requests, asked.tokens)
        print(f"{asked.requests} requests of {asked.tokens} tokens: {size / 1e6:.0f} MB, written in {time.monotonic() - started:.0f} s")
        for what in asked.steps:
            ended = subprocess.run([sys.executable, "-c", PROGRAM, str(folder), what], capture_output=True, text=True, check=False)
            print(ended.stdout.strip() or ended.stderr.strip())
        if (folder / "summary.json").exists():
            print(f"summary.json: sha256 {hashlib.sha256((folder / 'summary.json').read_bytes()).hexdigest()[:16]}")
        print(f"this process wrote with a peak of {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return ended.returncode


def write_run(folder: Path, requests: int, tokens: int) -> int:
    """run.json and the log, packed as at a run's end; returns its bytes."""
    facts = RunFacts(
        open_loop=True, process="poisson", requested_rate=RATE, scheduled_requests=requests, slo_ms=SloMs(ttft=200, tpot=30),
        loop_utilisation=0.3,
    )  # fmt: skip
    end = {"failure": "", "stopped_by_user": False}
    write_json(folder / "run.json", {"format_version": FORMAT_VERSION, "kind": "llm", "facts": msgspec.to_builtins(facts), "end": end})
    draw = random.Random(1)
    gaps = [round(draw.expovariate(1 / 8) * NS_PER_MS) + 2 * NS_PER_MS for _ in range(GAPS_KEPT + tokens)]
    encode, now_ns = msgspec.json.Encoder().encode, 0
    with (folder / "records.jsonl").open("wb") as file:
        for first in range(0, requests, BATCH):
            lines: list[bytes] = []
            for index in range(first, min(first + BATCH, requests)):
                now_ns += round(draw.expovariate(RATE) * NS_PER_S)
                _record(index, now_ns, tokens, gaps, draw).log(lambda record, lines=lines: lines.append(encode(record)))
            file.write(b"\n".join(lines) + b"\n")
    pack_logs(folder)
    return sum(path.stat().st_size for path in record_logs(folder))


def _record(index: int, planned_ns: int, tokens: int, gaps: list[int], draw: random.Random) -> RequestRecord:
    sent_ns = planned_ns + round(draw.expovariate(1 / 0.1) * NS_PER_MS)
    start = draw.randrange(GAPS_KEPT)
    first_ns = sent_ns + 40 * NS_PER_MS + round(draw.expovariate(1 / 20) * NS_PER_MS)
    stamps = list(accumulate(gaps[start : start + tokens - 1], initial=first_ns))
    return RequestRecord(
        id=f"0-{index:08d}",
        index=index,
        planned_ns=planned_ns,
        sent_ns=sent_ns,
        first_byte_ns=first_ns,
        chunk_ns=stamps,
        tokens_per_chunk=[1] * tokens,
        end_ns=stamps[-1] + 30_000,
        outcome="ok",
        prompt_tokens=200,
        output_tokens=tokens,
        max_tokens=tokens,
        token_source="usage",
        finish_reason="length",
        output_sha256="0123456789abcdef" * 4,
    )


if __name__ == "__main__":
    sys.exit(main())
