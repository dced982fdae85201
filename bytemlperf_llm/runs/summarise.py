"""From a run folder to its summary: records and run.json in, summary.json out. The same code at the
end of a run and in `bmp-llm summarize`, so that a published figure is always one from the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.summary import Summary, summarize
from bytemlperf_llm.runs.folder import write_text
from bytemlperf_llm.runs.reader import RunReader


def summarise_folder(folder: Path, percentiles: tuple[str, ...] | None = None) -> Summary:
    """Read everything and compute. Raises UserError when the folder is no LLM run."""
    reader = RunReader(folder)
    facts = facts_from(reader.run, folder)
    if percentiles is not None:
        facts = msgspec.structs.replace(facts, percentiles=percentiles)
    summary = summarize(reader.records(), facts)
    for damage in reader.damages:
        summary.warnings.append(f"{damage.file}: {damage.kind} of {damage.length_bytes} bytes at byte {damage.offset_bytes}, left out")
    end = reader.run.get("end")
    if end is None:
        summary.warnings.append("the run has no end: it was killed; requests without a record count as dropped")
    elif end.get("failure"):
        summary.verdict = "invalid"
        summary.reasons.insert(0, str(end["failure"]))
    elif end.get("stopped_by_user"):
        summary.warnings.append("stopped by the user: requests not yet sent count as dropped")
    return summary


def facts_from(run: dict[str, Any], folder: Path) -> RunFacts:
    """The facts kept in run.json. Raises UserError when they are not there."""
    if run.get("kind") != "llm":
        raise UserError(f"{folder} is a run of kind {run.get('kind')!r}, not of LLM serving", "name a folder of kind llm")
    try:
        return msgspec.convert(run.get("facts"), RunFacts)
    except msgspec.ValidationError as error:
        raise UserError(f"{folder}/run.json is damaged: {error}", "the run can't be summarised without it") from None


def write_summary(folder: Path, summary: Summary) -> None:
    """Keep it as summary.json. Raises UserError when the folder can't be written."""
    try:
        write_text(folder / "summary.json", summary.to_json().decode())
    except OSError as error:
        raise UserError(f"can't write {folder}/summary.json: {error.strerror}", "make the folder writable") from None
