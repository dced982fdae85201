"""From a run folder to its summary: records and run.json in, summary.json out. The same code at the
end of a run and in `bmp summarize`, so that a published figure is always one from the records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.runs.records import RunRecords, once
from bytemlperf_llm.calibration.cache import client_error_of
from bytemlperf_llm.metrics.accumulator import accumulated
from bytemlperf_llm.metrics.facts import facts_from
from bytemlperf_llm.metrics.recount import read_recount
from bytemlperf_llm.metrics.summary import summary_of
from bytemlperf_llm.record.record import RequestRecord


def summarise(run: dict[str, Any], records: Iterable[RequestRecord]) -> dict[str, Any]:
    """`metrics.summary.Summary` as JSON has it, with what run.json tells. Raises UserError when that is of no LLM run."""
    folder = records.folder if isinstance(records, RunRecords) else Path("run")
    summary = summary_of(once(records, accumulated), facts_from(run, folder))
    summary.client_error = client_error_of(run, summary)
    problem = read_recount(folder)[1]
    summary.warnings += [*([problem] if problem else []), *_resumptions(run), *_probe(run)]
    found: dict[str, Any] = msgspec.to_builtins(summary)
    return found


def _probe(run: dict[str, Any]) -> list[str]:
    """What `rate: auto` could not find out."""
    config = run.get("config")
    probe = config.get("probe") if isinstance(config, dict) else None
    return [str(probe["why"])] if isinstance(probe, dict) and probe.get("ceiling_found") is False and "why" in probe else []


def _resumptions(run: dict[str, Any]) -> list[str]:
    parts = run.get("resumed", [])
    if not parts:
        return []
    before = ", ".join(str(part["records_before"]) for part in parts)
    return [
        f"the run was resumed, {'once' if len(parts) == 1 else f'{len(parts)} times'}, after {before} records: the pause is excluded, "
        "the system was idle in it, and requests lost in flight were sent again"
    ]
