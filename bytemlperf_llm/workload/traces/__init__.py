"""Request traces: what serving teams have recorded, read one line at a time.

A reader is a generator from a path to `TraceRow`s, in the file's own order, and one line of the
table below. It holds one line in memory, whatever the size of the file, and stops at the first line
that can't be meant, with its number and the name of the field. What a row becomes (a window of
time, a scale, a prompt of that length) is told elsewhere, in `workload/trace_prompts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bytemlperf_llm.plan.scenario import Trace
from bytemlperf_llm.workload.traces import jsonl, sharegpt, tables
from bytemlperf_llm.workload.traces.rows import TraceRow


class TraceFormat(NamedTuple):
    """How to read it, and the prompt tokens of one hash id (None where the format has no hash ids)."""

    read: Callable[[Path, Trace], Iterator[TraceRow]]
    block_tokens: int | None = None


FORMATS: dict[str, TraceFormat] = {
    "mooncake": TraceFormat(jsonl.timed, block_tokens=jsonl.MOONCAKE_TOKENS),
    "azure": TraceFormat(tables.azure),
    "burstgpt": TraceFormat(tables.burstgpt),
    "bailian": TraceFormat(jsonl.timed, block_tokens=16),
    "timed_trace": TraceFormat(jsonl.timed, block_tokens=16),
    "custom": TraceFormat(jsonl.custom),
    "sharegpt": TraceFormat(sharegpt.sharegpt),
}


def block_tokens(trace: Trace) -> int:
    """Prompt tokens that one hash id of this trace stands for."""
    return trace.block_tokens or FORMATS[trace.format].block_tokens or 1


def read_rows(path: Path, trace: Trace) -> Iterator[TraceRow]:
    """The rows of a trace file. Raises UserError that names file, line and field."""
    return FORMATS[trace.format].read(path, trace)
