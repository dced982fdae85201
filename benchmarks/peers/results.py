"""What each peer reports of a run, read from the file that it writes.

Every reader takes the folder of the run and returns a Reported, in milliseconds. The readers take what
the peer calls TTFT and ITL, by its own formula: `ITL_OF` says which, since the names don't.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from bytemlperf.runs.files import lines_of, record_logs
from bytemlperf.units import NS_PER_MS

GAPS = "gaps"  # each gap between two chunks or tokens is one value
PER_REQUEST = "per request"  # (last − first) / (n − 1), one value a request: TPOT elsewhere


P50AndP99 = tuple[float | None, float | None]


class Reported(NamedTuple):
    """Milliseconds; None: not reported. `ttft_by_id` by x-request-id, from send, where the client sends one and keeps it.

    `verdict`: what the client itself says of the run, where it says something.
    """

    completed: int
    ttft_ms: P50AndP99
    itl_ms: P50AndP99
    ttft_by_id: dict[str, float] | None = None
    verdict: str | None = None


def vllm(folder: Path) -> Reported:
    """`vllm bench serve --save-result --save-detailed`; request ids are its prefix and the place in the list."""
    found = _json(folder / "result.json")
    by_id = {f"r{place}": ttft * 1e3 for place, ttft in enumerate(found["ttfts"]) if not found["errors"][place]}
    return Reported(found["completed"], _pair(found, "p50_ttft_ms", "p99_ttft_ms"), _pair(found, "p50_itl_ms", "p99_itl_ms"), by_id)


def sglang(folder: Path) -> Reported:
    """The last line of its `--output-file`."""
    found = json.loads((folder / "result.jsonl").read_text().splitlines()[-1])
    return Reported(found["completed"], _pair(found, "median_ttft_ms", "p99_ttft_ms"), _pair(found, "median_itl_ms", "p99_itl_ms"))


def guidellm(folder: Path) -> Reported:
    """The JSON report's only benchmark; successful requests alone."""
    metrics = _json(folder / "result.json")["benchmarks"][0]["metrics"]
    ttft, itl = (metrics[name]["successful"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    return Reported(
        metrics["request_totals"]["successful"], _pair(ttft["percentiles"], "p50", "p99"), _pair(itl["percentiles"], "p50", "p99")
    )


def aiperf(folder: Path) -> Reported:
    """`profile_export_aiperf.json` and, a line a request, `profile_export.jsonl`."""
    found = _json(folder / "profile_export_aiperf.json")
    by_id = {}
    for line in (folder / "profile_export.jsonl").read_text().splitlines():
        record = json.loads(line)
        ttft = record["metrics"].get("time_to_first_token")
        if ttft:
            by_id[record["metadata"]["x_request_id"]] = ttft["value"]
    ttft, itl = found.get("time_to_first_token") or {}, found.get("inter_token_latency") or {}
    return Reported(int(found["request_count"]["avg"]), _pair(ttft, "p50", "p99"), _pair(itl, "p50", "p99"), by_id)


def inference_perf(folder: Path) -> Reported:
    """`summary_lifecycle_metrics.json`, in seconds."""
    successes = _json(folder / "summary_lifecycle_metrics.json")["successes"]
    latency = successes["latency"]
    ttft, itl = (latency.get(name) or {} for name in ("time_to_first_token", "inter_token_latency"))
    return Reported(successes["count"], _pair(ttft, "median", "p99", 1e3), _pair(itl, "median", "p99", 1e3))


def ours(folder: Path) -> Reported:
    """The run folder: TTFT from planned as in the summary, and from sent request by request as in the records."""
    run = next(path for path in (folder / "runs").iterdir() if (path / "summary.json").is_file())
    summary = _json(run / "summary.json")
    by_id = {}
    for log in record_logs(run):
        for record in map(json.loads, lines_of(log)):
            if record["outcome"] == "ok":
                stamps = record.get("chunk_ns") or accumulate(record["chunk_gaps_ns"])
                chunks = zip(stamps, record["tokens_per_chunk"], strict=True)
                first_ns = next(stamp for stamp, tokens in chunks if tokens)
                by_id[record["id"]] = (first_ns - record["sent_ns"]) / NS_PER_MS
    ttft, itl = (summary["metrics"].get(name, {}).get("percentiles", {}) for name in ("ttft", "itl"))
    return Reported(
        summary["outcomes"]["ok"], _pair(ttft, "50", "99", 1 / NS_PER_MS), _pair(itl, "50", "99", 1 / NS_PER_MS), by_id, summary["verdict"]
    )


def c_client(folder: Path) -> Reported:
    """The JSON line that it prints: [p50, p90, p99]."""
    found = json.loads((folder / "stdout").read_text().splitlines()[-1])
    ttft, itl = found["ttft"], found["itl"]
    return Reported(found["n"], (ttft[0], ttft[2]), (itl[0], itl[2]))


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _pair(found: dict[str, Any], p50: str, p99: str, factor: float = 1.0) -> P50AndP99:
    """Both figures, times `factor`; None for what is absent, or a word in a figure's place."""

    def figure(value: Any) -> float | None:
        return value * factor if isinstance(value, (int, float)) else None

    return figure(found.get(p50)), figure(found.get(p99))


READERS: dict[str, Callable[[Path], Reported]] = {
    "C client": c_client,
    "bmp-llm": ours,
    "sglang (Rust)": sglang,
    "vllm bench serve": vllm,
    "inference-perf": inference_perf,
    "aiperf": aiperf,
    "guidellm": guidellm,
}
ITL_OF = {name: PER_REQUEST if name == "aiperf" else GAPS for name in READERS} | {"guidellm": PER_REQUEST}
