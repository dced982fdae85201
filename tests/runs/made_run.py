"""A small, whole run folder, made by the command line's own code without an engine's waiting."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bytemlperf.redaction import Redactor
from bytemlperf.runs.checksums import write_checksums
from bytemlperf.runs.folder import write_json
from bytemlperf.runs.log import RecordLog
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.description import describe_run, finished
from bytemlperf_llm.run.rebuild import planned_requests
from bytemlperf_llm.run.summarise import keep_load, summarise_folder, write_summary
from bytemlperf_llm.workload.schedule import describe
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
    info = EngineInfo(name="reference", reports=["usage"])
    planned = describe(plan.scenario, plan.flags.seed)
    run = describe_run(plan, plan.scenario, info, planned, None, ["bmp-llm", "serve-bench"], Redactor()) | {"clock_origin_ns": 5}
    run["environment"] = {}
    folder.mkdir()
    write_json(folder / "run.json", run)
    log = RecordLog(folder / "records.jsonl")
    for each in list(planned_requests(plan.scenario, plan.flags.seed))[: requests if records is None else records]:
        log.append(record_of(each))
    log.close()
    if records is None:
        run = finished(run, requests, 0.1, False, "", 2 * 10**9)
        write_json(folder / "run.json", run)
        write_checksums(folder)
        summary = summarise_folder(folder)
        keep_load(folder, run, summary)
        write_summary(folder, summary)
    return folder


def change_record(folder: Path, place: int, **changes) -> None:
    """Rewrite one line of the log with other values."""
    path = folder / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    record = msgspec.json.decode(lines[place], type=RequestRecord)
    lines[place] = msgspec.json.encode(msgspec.structs.replace(record, **changes)) + b"\n"
    path.write_bytes(b"".join(lines))
