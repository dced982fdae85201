"""`kill -9` in mid-run, a hundred real runs: is every answer that the server completed in the log?

The reference server keeps the truth: when it wrote the last token of each answer. A run of the command
line is killed at a random moment; every answer that was complete `--margin-ms` before the kill must
have its record (the rest may still have been on its way through sockets), no record may be there
twice, and nothing but the last line may be torn. The oldest answer without a record tells how
far behind the log is at worst.

    python benchmarks/kill_nine.py [--runs 100] [--rate 300] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from bytemlperf.runs.records import RunRecords
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.record.record import RequestRecord

COMMAND = [sys.executable, "-c", "from bytemlperf_llm.cli import main; main()"]


class Kill(NamedTuple):
    """What one killed run left. `answers` the server had completed; `oldest_lost_ms` is the age at
    the kill of the oldest of them without a record."""

    answers: int
    records: int
    torn: int
    repeated: int
    oldest_lost_ms: float


def main() -> int:
    """Print a line a run and the sum; status 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--margin-ms", type=float, default=100)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as place:
        server = _start("reference-server", "--port", "0", "--engine-option", "ttft_ms=5", "--engine-option", "itl_ms=2", cwd=Path(place))
        try:
            assert server.stdout is not None
            url = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
            kills = [_killed(Path(place) / str(number), url, asked.rate, draw.uniform(0.0, 1.0)) for number in range(asked.runs)]
        finally:
            server.kill()
            server.communicate()
    return _report(kills, asked.margin_ms)


def _killed(place: Path, url: str, rate: float, run_for_s: float) -> Kill:
    place.mkdir()
    _get(f"{url}/reset")
    words = ("serve-bench", "--engine", "openai", "--base-url", url, "--model", "reference", "--scenario", "smoke", "--quiet")
    process = _start(*words, "--num-warmups", "0", "--request-rate", str(rate), "--num-prompts", "100000", cwd=place)
    try:
        while not list(place.glob("runs/*/records.jsonl")) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(run_for_s)
    finally:
        killed_ns = time.monotonic_ns()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return _compare(next(place.glob("runs/*")), json.loads(_get(f"{url}/stats"))["requests"], killed_ns)


def _compare(folder: Path, truth: dict[str, dict[str, int]], killed_ns: int) -> Kill:
    reader = RunRecords[RequestRecord](folder, RequestRecord)
    ids = [record.id for record in reader]
    kept = set(ids)
    ended_ns = {name: account["last_write_ns"] for name, account in truth.items() if account["done"] and not name.endswith("-ready")}
    answers = {name: killed_ns - end_ns for name, end_ns in ended_ns.items() if end_ns < killed_ns}
    lost = [age_ns for name, age_ns in answers.items() if name not in kept]
    assert all(damage.kind == "torn tail" for damage in reader.damages), reader.damages
    return Kill(len(answers), len(ids), len(reader.damages), len(ids) - len(kept), max(lost, default=0) / NS_PER_MS)


def _report(kills: list[Kill], margin_ms: float) -> int:
    for number, kill in enumerate(kills):
        kept = f"{kill.answers:5} answers {kill.records:5} records"
        print(f"{number:3} {kept}  torn {kill.torn}  repeated {kill.repeated}  oldest lost {kill.oldest_lost_ms:.2f} ms")
    lost = sum(kill.oldest_lost_ms > margin_ms for kill in kills)
    ages = sorted(kill.oldest_lost_ms for kill in kills)
    answers, records, repeated, torn = (sum(getattr(kill, name) for kill in kills) for name in ("answers", "records", "repeated", "torn"))
    print(f"{len(kills)} runs killed: {answers} answers, {records} records, {repeated} repeated, {torn} torn tails")
    print(f"oldest answer without a record: median {ages[len(ages) // 2]:.2f} ms, worst {ages[-1]:.2f} ms before the kill")
    print(f"runs that lost an answer older than {margin_ms:g} ms: {lost}")
    return 1 if lost or any(kill.repeated for kill in kills) else 0


def _start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=cwd)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
    return body


if __name__ == "__main__":
    sys.exit(main())
