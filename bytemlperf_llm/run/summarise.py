"""From a run folder to its summary: records and run.json in, summary.json out. The same code at the
end of a run and in `bmp-llm summarize`, so that a published figure is always one from the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.checksums import renew_checksum
from bytemlperf.runs.folder import write_json, write_text
from bytemlperf_llm.calibration.cache import client_error_of
from bytemlperf_llm.metrics.facts import facts_from
from bytemlperf_llm.metrics.recount import read_recount
from bytemlperf_llm.metrics.summary import Summary, summarize
from bytemlperf_llm.record.reader import RunReader


def summarise_folder(folder: Path, percentiles: tuple[str, ...] | None = None, run: dict[str, Any] | None = None) -> Summary:
    """Read everything and compute; `run` stands for a run.json that could not be written.
    Raises UserError when the folder is no LLM run."""
    reader = RunReader(folder)
    if run is not None:
        reader.run = run
    facts = facts_from(reader.run, folder)
    if percentiles is not None:
        facts = msgspec.structs.replace(facts, percentiles=percentiles)
    counted, problem = read_recount(folder)
    summary = summarize(reader.records(), facts, counted)
    summary.client_error = client_error_of(reader.run, summary)
    for damage in reader.damages:
        summary.warnings.append(f"{damage.file}: {damage.kind} of {damage.length_bytes} bytes at byte {damage.offset_bytes}, left out")
    if problem:
        summary.warnings.append(problem)
    summary.warnings.extend(_resumptions(reader.run))
    summary.warnings.extend(_probe(reader.run))
    end = reader.run.get("end")
    if end is None:
        summary.warnings.append("the run has no end: it was killed; requests without a record count as dropped")
    elif end.get("failure"):
        summary.verdict = "invalid"
        summary.reasons.insert(0, str(end["failure"]))
    elif end.get("stopped_by_user"):
        summary.warnings.append("stopped by the user: requests not yet sent count as dropped")
    return summary


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


def load_of(summary: Summary) -> dict[str, Any]:
    """The load as it was delivered: what run.json says beside what was asked for."""
    found: dict[str, Any] = msgspec.to_builtins(summary.load)
    return found


def keep_load(folder: Path, run: dict[str, Any], summary: Summary) -> None:
    """Complete run.json by the delivered load. Raises UserError when the folder can't be written."""
    run["end"]["load"] = load_of(summary)
    try:
        write_json(folder / "run.json", run)
        renew_checksum(folder, "run.json")
    except OSError as error:
        raise UserError(f"can't write {folder}/run.json: {error.strerror}", "free disk space, or make the folder writable") from None


def write_summary(folder: Path, summary: Summary) -> None:
    """Keep it as summary.json. Raises UserError when the folder can't be written."""
    try:
        write_text(folder / "summary.json", summary.to_json().decode())
    except OSError as error:
        raise UserError(f"can't write {folder}/summary.json: {error.strerror}", "free disk space, or make the folder writable") from None
