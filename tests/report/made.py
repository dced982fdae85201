"""Run folders for tests, written as the suites write them, without an engine's waiting."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.runs.folder import write_json
from bytemlperf.runs.suite import summarise_suite
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import Stages
from tests.metrics.records import MS, answered, failed

HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "<!--<script>",
    "<img src=x onerror='window.pwned=1'>",
    '"><svg onload=window.pwned=1>',
    "a\u2028b\u2029c",
    "\u202egnp.exe\u202c \u2066left\u2069",
    "<a href='javascript:window.pwned=1'>click</a>",
    "<a href='https://example.org/'>out</a>",
    "{{ 7*7 }} ${alert(1)} %{x}",
    "\x1b[31mred\x07",
)


def llm_run_json(
    label: str = "made", scenario: str = "chat", rate: float = 40.0, in_flight: int | None = None, **changes: Any
) -> dict[str, Any]:
    """A run.json of LLM serving, as far as the summary and the page read it: Poisson at a rate, or so many in flight."""
    arrival = {"process": "poisson", "rate": rate} if in_flight is None else {"process": "closed", "max_concurrency": in_flight}
    facts = {"open_loop": in_flight is None, "process": arrival["process"], "requested_rate": arrival.get("rate")}
    run = {
        "format_version": 1,
        "kind": "llm",
        "label": label,
        "started_at": "2026-11-24T12:00:00.000+00:00",
        "command": ["bmp-llm", "serve-bench", "--engine", "reference", "--label", label],
        "config": {"flags": {"engine": "reference"}, "scenario": {"name": scenario, "arrival": arrival}, "header_names": []},
        "seed": 0,
        "schedule_sha256": "a" * 64,
        "environment": {"packages": {"msgspec": "0"}, "hardware": {"cpu": {"model": "a CPU", "usable_cores": 2}}, "git": {}},
        "engine": {"name": "reference", "versions": {"reference": "1"}, "model": "tiny", "dtype": "float32", "device": "cpu"},
        "client": {"calibration": None, "note": "not calibrated"},
        "facts": facts | {"slo_ms": {"ttft": 500.0}, "loop_utilisation": 0.1},
        "end": {"issued_requests": 0, "stopped_by_user": False, "failure": "", "duration_ns": 10**10},
    }
    return run | changes


def llm_records(count: int = 600, rate: float = 40.0, seed: int = 1, slower: float = 1.0, stages: bool = True) -> list[RequestRecord]:
    """Poisson arrivals on a server of random speed, which one request in fifty fails; `slower` multiplies its times."""
    due, draw = random.Random("arrivals"), random.Random(seed)
    records, now_ms = [], 0.0
    for index in range(count):
        now_ms += due.expovariate(rate) * 1000
        if index % 50 == 49:
            records.append(failed(index, now_ms, now_ms + 5))
            continue
        tokens = 4 + (index * 7) % 20
        prefill = (20 + draw.expovariate(1 / 15)) * slower
        queue = 250.0 if index % 40 == 7 else 0.5
        first = now_ms + 0.2 + queue + prefill
        stamps = [first]
        for _ in range(tokens - 1):
            stamps.append(stamps[-1] + (4 + draw.expovariate(1 / 2)) * slower)
        engine = Stages(
            queued_ns=round((now_ms + 0.3) * MS),
            scheduled_ns=round((now_ms + 0.3 + queue) * MS),
            first_token_ns=round((first - 0.1) * MS),
            last_token_ns=round((stamps[-1] - 0.05) * MS),
        )
        records.append(answered(index, now_ms, now_ms + 0.2, stamps, prompt_tokens=5 + index % 90, stages=engine if stages else None))
    return records


def write_run(folder: Path, run: dict[str, Any], records: Iterable[Any], *, summary: bool = True) -> Path:
    """A run folder of kind llm."""
    folder.mkdir(parents=True)
    records = list(records)
    write_json(folder / "run.json", run)
    (folder / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    if summary:
        write_json(folder / "summary.json", summarise_suite(folder))
    return folder


def llm_run(folder: Path, count: int = 600, **changes: Any) -> Path:
    """A whole run of LLM serving."""
    records = {name: changes.pop(name) for name in ("seed", "slower", "stages") if name in changes}
    return write_run(folder, llm_run_json(**changes), llm_records(count, changes.get("rate", 40.0), **records))


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())
