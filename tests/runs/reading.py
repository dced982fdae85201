"""The records of a run of LLM serving, read back."""

from __future__ import annotations

from pathlib import Path

from bytemlperf.runs.records import RunRecords
from bytemlperf_llm.record.record import RequestRecord


def read_records(folder: Path) -> RunRecords[RequestRecord]:
    """Every whole record of every log."""
    return RunRecords(folder, RequestRecord)
