"""Run folders as nobody's program leaves them: each a change to a whole folder of some kind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEEP = "[" * 3000 + "]" * 3000
DEEP_OBJECT = '{"a":' * 3000 + "1" + "}" * 3000

Change = Callable[[Path], None]


def _json(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _in_run(*keys: str, value: Any) -> Change:
    """run.json with one value replaced."""

    def change(run: Any) -> Any:
        place = run
        for key in keys[:-1]:
            place = place.get(key) if isinstance(place, dict) and isinstance(place.get(key), dict) else place.setdefault(key, {})
        place[keys[-1]] = value
        return run

    return lambda folder: _json(folder, "run.json", change)


def _replaced(name: str, make: Callable[[Path], Any]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def _text(name: str, text: str | bytes) -> Change:
    return _replaced(name, lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode()))


def _sparse(name: str) -> Change:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(8 << 30)

    return _replaced(name, make)


def _in_records(change: Callable[[Any], Any]) -> Change:
    def make(folder: Path) -> None:
        path = next(iter(sorted(folder.glob("records*.jsonl"))))
        lines = path.read_text().splitlines()
        path.write_text("".join(json.dumps(change(json.loads(line))) + "\n" for line in lines))

    return make


def _first_record(**values: Any) -> Change:
    seen: list[int] = []

    def change(record: Any) -> Any:
        seen.append(1)
        return record | values if len(seen) == 1 else record

    return _in_records(change)


ANY_KIND: dict[str, Change] = {
    **{
        f"{name} {what}": _replaced(name, make)
        for name in ("run.json", "summary.json", "records.jsonl")
        for what, make in {
            "is a fifo": os.mkfifo,
            "is a link to a device": lambda path: path.symlink_to("/dev/zero"),
            "is a folder": lambda path: path.mkdir(),
        }.items()
    },
    **{
        f"{name} {what}": _text(name, text)
        for name in ("run.json", "summary.json", "checksums.json")
        for what, text in {
            "is nested deep": DEEP,
            "is objects nested deep": DEEP_OBJECT,
            "is a list": "[]",
            "is null": "null",
            "is no Unicode": b"\xff\xfe{}",
            "has a number of 5000 digits": '{"format_version": ' + "9" * 5000 + "}",
        }.items()
    },
    "run.json is 8 GiB": _sparse("run.json"),
    "summary.json is 8 GiB": _sparse("summary.json"),
    "records.jsonl is a line of 8 GiB": _sparse("records.jsonl"),
    "checksums.json is a fifo": _replaced("checksums.json", os.mkfifo),
    "gauges.jsonl is a fifo": _replaced("gauges.jsonl", os.mkfifo),
    "recount.json is a link to a device": _replaced("recount.json", lambda path: path.symlink_to("/dev/zero")),
    "tags.json is a fifo": _replaced("tags.json", os.mkfifo),
    "tags.json is nested deep": _text("tags.json", DEEP),
    "records-1.jsonl is a fifo": _replaced("records-1.jsonl", os.mkfifo),
    "records.jsonl is nested deep": _text("records.jsonl", DEEP + "\n" + DEEP_OBJECT + "\n"),
    "records.jsonl is of nulls": _text("records.jsonl", "null\n[]\n{}\n1\n"),
    "no records": _replaced("records.jsonl", lambda path: None),
    **{
        f"{name} is null": _in_run(name, value=None)
        for name in ("config", "environment", "engine", "facts", "end", "kind", "command", "label", "seed")
    },
    **{f"{name} is a number": _in_run(name, value=7) for name in ("config", "environment", "end", "kind", "resumed", "started_at")},
    "environment.hardware is null": _in_run("environment", "hardware", value=None),
    "environment.hardware.cpu is text": _in_run("environment", "hardware", "cpu", value="x"),
    "environment.hardware.gpus is text": _in_run("environment", "hardware", "gpus", value="x"),
    "environment.hardware.gpus is of nulls": _in_run("environment", "hardware", "gpus", value=[None]),
    "environment.packages is a list": _in_run("environment", "packages", value=[1]),
    "resumed is of nulls": _in_run("resumed", value=[None]),
    "end is of nulls": _in_run("end", value={"duration_ns": None, "failure": None, "load": None}),
    "label is an escape sequence": _in_run("label", value="\x1b]0;owned\x07\x1b[31m" + "x" * 10_000),
    "summary.json is of nulls": lambda folder: _json(folder, "summary.json", lambda kept: dict.fromkeys(kept)),
    "summary.json is of texts": lambda folder: _json(folder, "summary.json", lambda kept: dict.fromkeys(kept, "x")),
    "summary.json is of lists of nulls": lambda folder: _json(folder, "summary.json", lambda kept: {name: [None] for name in kept}),
    "summary.json is empty": _text("summary.json", "{}"),
    "records of nulls": _in_records(lambda record: dict.fromkeys(record)),
    "records of texts": _in_records(lambda record: dict.fromkeys(record, "x")),
    "records of huge numbers": _in_records(
        lambda record: {key: 10**30 if isinstance(value, int) else value for key, value in record.items()}
    ),
}

LLM: dict[str, Change] = {
    "a plan of 10^12 requests": _in_run("config", "scenario", "num_requests", value=10**12),
    "a plan of 10^12 seconds": lambda folder: [
        _in_run("config", "scenario", "num_requests", value=None)(folder),
        _in_run("config", "scenario", "duration_s", value=1e12)(folder),
    ],
    "a rate of 10^12": _in_run("config", "scenario", "arrival", "rate", value=1e12),
    "prompts of 10^12 tokens": _in_run("config", "scenario", "input_tokens", value={"distribution": "constant", "value": 10**12}),
    "facts of 10^12 requests": _in_run("facts", "scheduled_requests", value=10**12),
    "scenario is null": _in_run("config", "scenario", value=None),
    "flags is null": _in_run("config", "flags", value=None),
    "flags is a list": _in_run("config", "flags", value=[1]),
    "flags is of nulls": _in_run("config", "flags", value={"engine": None, "workers": 10**9}),
    "header_names is a number": _in_run("config", "header_names", value=3),
    "scenario_folder is a number": _in_run("config", "scenario_folder", value=3),
    "10^9 tokens a chunk": _first_record(tokens_per_chunk=[10**9, 10**12], chunk_ns=[10**9, 2 * 10**9]),
    "3*10^7 tokens in each chunk": _in_records(
        lambda record: record | {"tokens_per_chunk": [3 * 10**7] * len(record.get("tokens_per_chunk") or [])}
    ),
    "index of 10^12": _first_record(index=10**12),
    "index below 0": _first_record(index=-5),
    "end of 10^18": _first_record(end_ns=10**18),
    "planned in the far past": _first_record(planned_ns=-(10**18)),
    "chunks of another number": _first_record(tokens_per_chunk=[1], chunk_ns=[]),
}

MICRO: dict[str, Change] = {
    "cases is null": _in_run("config", "cases", value=None),
    "cases is of nulls": _in_run("config", "cases", value=[None]),
    "settings is null": _in_run("config", "settings", value=None),
    "peaks is text": _in_run("peaks", value="x"),
    "sheet is a number": _in_run("sheet", value=4),
    "rows of 10^12 samples": _first_record(timed={"calls": 0, "samples_ns": [10**30]}),
}

GENERAL: dict[str, Change] = {
    "jobs is null": _in_run("config", "jobs", value=None),
    "jobs is of nulls": _in_run("config", "jobs", value=[None]),
    "plan is null": _in_run("config", "plan", value=None),
    "plan is a number": _in_run("config", "plan", value=9),
}

TRAINING: dict[str, Change] = {
    "workload is null": _in_run("config", "workload", value=None),
    "layout is text": _in_run("config", "layout", value="x"),
    "study is a number": _in_run("config", "study", value=9),
    "steps is 10^12": _in_run("config", "steps", value=10**12),
    "plan.json is a fifo": _replaced("plan.json", os.mkfifo),
    "plan.json is nested deep": _text("plan.json", DEEP),
}

CAMPAIGN: dict[str, Change] = {
    "jobs is a number": _in_run("config", "jobs", value=7),
    "jobs of nulls": _in_run("config", "jobs", value=[None, [None] * 4, [[], {}, 1, 2]]),
    "conditions of nulls": _in_run("config", "fail_if", value=[None, {}, "ttft p50 > 1", "x" * 10_000]),
    "conditions are a number": _in_run("config", "fail_if", value=7),
    "a campaign of nulls": _in_run("config", "campaign", value={"same_schedule": None, "engines": None}),
    "a run elsewhere": _first_record(run="../../../../../../etc"),
    "a run of no name": _first_record(run=".."),
    "a load of nothing": _first_record(level={"rate_rps": None, "concurrency": None}),
    "a rate of nothing": _first_record(level={"rate_rps": 0.0}),
    "rows of nulls": lambda folder: _json(folder, "summary.json", lambda kept: kept | {"rows": [None, {"point": {}}]}),
}
