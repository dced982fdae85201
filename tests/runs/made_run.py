"""A small, whole run folder, made by the command line's own code without an engine's waiting."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bytemlperf.runs.checksums import write_checksums
from bytemlperf.runs.folder import read_run_json, write_json
from bytemlperf.runs.lock import FolderLock
from bytemlperf.runs.suite import SuiteRun, summarise_suite
from bytemlperf_llm.metrics.summary import Summary
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.description import described, finish_facts
from bytemlperf_llm.workload.schedule import Schedule
from engines.contract import EngineInfo

MS = 1_000_000


def record_of(planned, **changes) -> RequestRecord:
    """What a steady server makes of a planned request: two tokens, 5 and 9 ms after it was sent."""
    sent_ns = (planned.offset_ns or planned.request.index * 10 * MS) + 20_000
    fields = {
        "id": planned.request.id,
        "index": planned.request.index,
        "planned_ns": planned.offset_ns,
        "sent_ns": sent_ns,
        "first_byte_ns": sent_ns + 5 * MS,
        "chunk_ns": [sent_ns + 5 * MS, sent_ns + 9 * MS],
        "tokens_per_chunk": [1, 1],
        "end_ns": sent_ns + 10 * MS,
        "outcome": "ok",
        "prompt_tokens": 7,
        "output_tokens": 2,
        "max_tokens": planned.request.max_tokens,
        "token_source": "usage",
        "finish_reason": "length",
        "output_sha256": "0" * 64,
    }
    return RequestRecord(**(fields | changes))


def made_run(folder: Path, requests: int = 4, records: int | None = None, **flags) -> Path:
    """A run of the smoke scenario; `records` cuts it short, as a kill does, and leaves it without an end."""
    plan = resolve(Flags(**({"engine": "reference", "scenario": "smoke", "num_prompts": requests, "request_rate": "100"} | flags)))
    schedule = Schedule(plan.load.scenario, plan.load.seed)
    folder.mkdir()
    run = SuiteRun(folder, "llm", FolderLock(folder), {"label": plan.output.label})
    about = described(plan, plan.load.scenario, EngineInfo(name="reference", reports=["usage"]), schedule.describe(), None)
    run.describe(**about, command=["bmp-llm", "serve-bench"])
    run.run |= {"clock_origin_ns": 5, "environment": {}}
    write_json(folder / "run.json", run.run)
    for each in list(schedule.planned())[: requests if records is None else records]:
        run.append(record_of(each))
    if records is None:
        finish_facts(run.run, requests, 0.1)
        run.end(report=False, issued_requests=requests, duration_ns=2 * 10**9)
    return folder


def summary_in(folder: Path) -> Summary:
    """What the records give."""
    return msgspec.convert(summarise_suite(folder), Summary)


def made_anew(folder: Path) -> None:
    """Load, checksums and summary of what the folder holds now, as a forger would make them."""
    run, summary = read_run_json(folder), summarise_suite(folder)
    run["end"]["load"] = summary["load"]
    write_json(folder / "run.json", run)
    write_json(folder / "summary.json", summary)
    write_checksums(folder)


def change_record(folder: Path, place: int, **changes) -> None:
    """Rewrite one line of the log with other values."""
    path = folder / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    record = msgspec.json.decode(lines[place], type=RequestRecord)
    lines[place] = msgspec.json.encode(msgspec.structs.replace(record, **changes)) + b"\n"
    path.write_bytes(b"".join(lines))
