"""The records of a run of LLM serving, read back."""

from __future__ import annotations

from pathlib import Path

from bytemlperf.runs.records import RunRecords, whole_lines
from bytemlperf_llm.record.record import RequestRecord


def read_records(folder: Path) -> RunRecords[RequestRecord]:
    """Every whole record of every log."""
    return RunRecords(folder, RequestRecord)


def records_of(path: Path) -> list[RequestRecord]:
    """Those of one log."""
    return list(whole_lines(path, RequestRecord, []))
