"""The runs of one client against the C server, and what the server knows of them.

A row is a dict of plain values, as it goes into the JSON. What did not work is a row, too: `failed` says why.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import OURS, ROOT, Server, cores, mock_server, percentile
from benchmarks.peers import process_tree, results
from benchmarks.peers.adapters import QUIET, Client, Load, Place
from bytemlperf.arrivals.delivered import count_dispersion, rate_of

STREAMS, PEAK_TOKENS = 64, 128
TRUTH_TTFT_MS, TRUTH_ITL_MS, TRUTH_TOKENS = 50, 10, 32
PACED_MS = 1
PACED_CEILING_TOKENS_PER_S = STREAMS * PEAK_TOKENS / (PEAK_TOKENS * PACED_MS / 1e3)
NEAR_CEILING = 0.6  # a client this near to the pace is run unpaced, too
LEAST_REQUESTS = 3 * STREAMS
NS_PER_MS, NS_PER_S = 1e6, 1e9
SAID_CHARACTERS = 300


class Spans(NamedTuple):
    """Seconds that runs are to take, the least number of requests at a rate, and the limit of one run."""

    peak_s: float
    one_token_s: float
    rate_s: float
    rate_requests: int
    limit_s: float


class Bench(NamedTuple):
    """A client ready to run."""

    client: Client
    environment: Path
    tokenizer: str
    spans: Spans


class Ran(NamedTuple):
    """A run that ended well: its row and the server's log of it."""

    row: dict[str, Any]
    seen: list[dict[str, str]]


class Failed(Exception):
    """The run gave no result; says why in one line."""


def least(bench: Bench, folder: Path) -> dict[str, Any]:
    """The load of `peak` with one request a stream: mostly start-up. Twice, since the first finds its files on disk; the cheaper."""
    rows = []
    with mock_server(PACED_MS, PACED_MS) as server:
        for place in ("first", "second"):
            (folder / place).mkdir()
            rows.append(_closed_loop(bench, server, Load(STREAMS, PEAK_TOKENS, STREAMS), folder / place))
    return min(rows, key=lambda row: row["cpu_s"])


def peak(bench: Bench, paced: bool, folder: Path) -> dict[str, Any]:
    """64 streams, closed loop, 128 tokens, one token a chunk: tokens/s by the server's clock, CPU, memory."""
    requests = max(LEAST_REQUESTS, round(bench.client.tokens_per_s * bench.spans.peak_s / PEAK_TOKENS))
    pace_ms = PACED_MS if paced else 0
    with mock_server(pace_ms, pace_ms) as server:
        return _closed_loop(bench, server, Load(requests, PEAK_TOKENS, STREAMS), folder)


def one_token(bench: Bench, folder: Path) -> dict[str, Any]:
    """Answers of one token, 64 streams: requests/s by the server's clock."""
    requests = max(LEAST_REQUESTS, round(bench.client.requests_per_s * bench.spans.one_token_s))
    with mock_server(0, 0) as server:
        return _closed_loop(bench, server, Load(requests, 1, STREAMS), folder)


def _closed_loop(bench: Bench, server: Server, load: Load, folder: Path) -> dict[str, Any]:
    ran = _run(bench, server, load, folder, memory=True)
    return ran.row | throughput(ran.seen)


def cost(small: dict[str, Any], large: dict[str, Any]) -> dict[str, float]:
    """The line through two runs of one configuration, CPU over tokens: what a token costs, and what is left without any.

    guidellm starts processes by the number of streams; so a run of one request would not be its start-up.
    """
    slope = (large["cpu_s"] - small["cpu_s"]) / (large["tokens"] - small["tokens"])
    return {"start_up_cpu_s": small["cpu_s"] - slope * small["tokens"], "cpu_s_per_million_tokens": slope * 1e6}


def throughput(seen: list[dict[str, str]]) -> dict[str, Any]:
    """From the first arrival to the last answer, of the server's log."""
    tokens = sum(int(row["sent"]) for row in seen)
    span_s = (max(int(row["done_ns"]) for row in seen) - min(int(row["arr_ns"]) for row in seen)) / NS_PER_S
    return {"tokens": tokens, "tokens_per_s": tokens / span_s, "requests_per_s": len(seen) / span_s}


def truth(bench: Bench, rate: float, folder: Path) -> dict[str, Any]:
    """Poisson arrivals: what the client reports beside what the server knows, and what it really sent."""
    load = Load(max(bench.spans.rate_requests, round(rate * bench.spans.rate_s)), TRUTH_TOKENS, STREAMS, rate)
    with mock_server(TRUTH_TTFT_MS, TRUTH_ITL_MS) as server:
        ran = _run(bench, server, load, folder)
        gaps = server.stats()["itl_ms"]
    try:
        reported = results.READERS[bench.client.name](folder)
    except (OSError, LookupError, TypeError, ValueError, StopIteration) as error:
        raise Failed(f"its result could not be read: {error!r}") from error
    return ran.row | against(reported, ran.seen, gaps, results.ITL_OF[bench.client.name]) | {"rate": rate}


def against(reported: results.Reported, seen: list[dict[str, str]], gaps: dict[str, float], itl_of: str) -> dict[str, Any]:
    """Reported and true percentiles in ms. `joined_*` are of the differences request by request, where ids allow it."""
    arrivals = sorted(int(row["arr_ns"]) for row in seen)
    true_ttft = [(int(row["first_ns"]) - int(row["arr_ns"])) / NS_PER_MS for row in seen]
    by_id = {row["rid"]: ttft for row, ttft in zip(seen, true_ttft, strict=True) if row["rid"]}
    means = [(int(row["last_ns"]) - int(row["first_ns"])) / (int(row["sent"]) - 1) / NS_PER_MS for row in seen if int(row["sent"]) > 1]
    true_itl = (gaps["p50"], gaps["p99"]) if itl_of == results.GAPS else (percentile(means, 50), percentile(means, 99))
    errors = [ttft - by_id[rid] for rid, ttft in (reported.ttft_by_id or {}).items() if rid in by_id]
    return {
        "completed": reported.completed,
        "verdict": reported.verdict,
        "ttft_ms": list(reported.ttft_ms),
        "true_ttft_ms": [percentile(true_ttft, 50), percentile(true_ttft, 99)],
        "itl_ms": list(reported.itl_ms),
        "true_itl_ms": list(true_itl),
        "itl_of": itl_of,
        "joined_requests": len(errors),
        "joined_ttft_error_ms": [percentile(errors, 50), percentile(errors, 99)] if errors else None,
        "offered_per_s": rate_of(arrivals),
        "dispersion": count_dispersion(arrivals),
    }


def _run(bench: Bench, server: Server, load: Load, folder: Path, memory: bool = False) -> Ran:
    """One run, its files left in `folder`. Raises Failed."""
    place = Place(server.url, bench.tokenizer, folder, bench.environment)
    command = bench.client.command(place, load)
    variables = os.environ | QUIET | bench.client.variables
    server.get("/reset")
    ended = process_tree.run(command, cores()[0], folder, variables, bench.spans.limit_s, memory)
    seen = [row for row in server.log() if int(row["first_ns"]) and int(row["ntok"]) == load.tokens]
    seen = sorted(seen, key=lambda row: int(row["arr_ns"]))[-load.requests :]  # before them: is the server up?
    if ended.status is None:
        raise Failed(f"did not finish in {bench.spans.limit_s:g} s ({len(seen)} of {load.requests} requests seen)")
    if ended.status not in bench.client.good or not seen:
        raise Failed(f"{said(folder)} (status {ended.status})")
    row = {
        "command": plain(command, place),
        "requests": load.requests,
        "answered": len(seen),
        "wall_s": ended.wall_s,
        "cpu_s": ended.cpu_s,
    }
    return Ran(row | ({"peak_mb": ended.peak_mb} if memory else {}), seen)


def plain(command: list[str], place: Place) -> str:
    """The command as it's shown: no folders of this machine."""
    program = command[0] if command[0] == sys.executable or Path(command[0]).is_relative_to(ROOT) else Path(command[0]).name
    shown = " ".join([program, *command[1:]]).replace(" ".join(OURS), "bmp-llm")
    named = {
        str(place.folder): "OUT",
        place.tokenizer: "TOKENIZER",
        f"{ROOT}/": "",
        sys.executable: "python",
        place.url: "http://SERVER",
        f"-p {place.port} ": "-p PORT ",
    }
    config = place.folder / "config.json"
    if str(config) in command:
        shown += f"    # {config}: {config.read_text()}"
    for path, name in sorted(named.items(), key=lambda pair: -len(pair[0])):
        shown = shown.replace(path, name)
    return shown


def said(folder: Path) -> str:
    """The last line that the client said, shortened."""
    lines = [
        line.strip() for file in ("stderr", "stdout") for line in (folder / file).read_text(errors="replace").splitlines() if line.strip()
    ]
    return lines[-1][:SAID_CHARACTERS] if lines else "it said nothing"
