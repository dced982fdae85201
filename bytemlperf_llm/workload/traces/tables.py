"""Traces that are CSV tables: Azure's and BurstGPT. Columns are found by their names in the header,
since editions differ in which they have and in what order."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path

import msgspec

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.plan.scenario import Trace
from bytemlperf_llm.workload.data_files import bad, echo, is_parquet, lines, raw_lines
from bytemlperf_llm.workload.traces.rows import MAX_ROW_TOKENS, MAX_TIME_S, TraceRow, seconds_ns

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AZURE_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:(Z)|([+-])(\d\d):?(\d\d))?", re.ASCII)
WHOLE_NUMBER = re.compile(r"(\d{1,12})(?:\.0*)?", re.ASCII)
FIX = "fix the line, or remove it"
AZURE_FORM = "2023-11-16 18:15:46.6805900"

Cells = dict[str, str]


def azure(path: Path, _trace: Trace) -> Iterator[TraceRow]:
    """Azure LLM inference traces of 2023 (seven decimals, CRLF), 2024 (UTC offset) and 2025 (with NumImages, passed over)."""
    for line, cells in _records(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        yield TraceRow(
            line=line,
            at_ns=_instant_ns(path, line, cells["TIMESTAMP"]),
            prompt_tokens=_tokens(path, line, "ContextTokens", cells),
            output_tokens=_tokens(path, line, "GeneratedTokens", cells),
        )


def burstgpt(path: Path, _trace: Trace) -> Iterator[TraceRow]:
    """BurstGPT, with or without the columns `Session ID` and `Elapsed time`."""
    for line, cells in _records(path, ("Timestamp", "Request tokens", "Response tokens")):
        yield TraceRow(
            line=line,
            at_ns=_seconds_ns(path, line, cells["Timestamp"]),
            prompt_tokens=_tokens(path, line, "Request tokens", cells),
            output_tokens=_tokens(path, line, "Response tokens", cells),
            session=cells.get("Session ID") or None,
        )


def _records(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, Cells]]:
    """(line, cells by column name) of every row. Raises UserError."""
    if is_parquet(path):
        yield from _rows(path, needed)
        return
    reader = csv.reader(_texts(path), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in needed:
            if name not in header:
                problem = f"no such column in the header {echo(','.join(header))}"
                raise bad(path, 1, name, problem, f"give a CSV file whose first line names {', '.join(needed)}")
        for values in reader:
            if not any(map(str.strip, values)):
                continue
            if len(values) < len(header) or any(map(str.strip, values[len(header) :])):
                problem = f"{len(values)} cells where the header has {len(header)} columns"
                raise bad(path, reader.line_num, "line", problem, FIX)
            yield reader.line_num, dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise bad(path, reader.line_num, "line", f"not CSV: {error}", FIX) from None


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, Cells]]:
    """Of Parquet."""
    for number, raw in lines(path):
        cells = {name: str(value) for name, value in msgspec.json.decode(raw).items()}
        for name in needed:
            if name not in cells:
                raise bad(path, number, name, f"no such value in the columns {echo(','.join(cells))}", f"give columns {', '.join(needed)}")
        yield number, cells


def _texts(path: Path) -> Iterator[str]:
    for number, raw in raw_lines(path):
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise bad(path, number, "line", f"not UTF-8 text: {error.reason}", "save the trace as UTF-8") from None


def _tokens(path: Path, line: int, field: str, cells: Cells) -> int:
    found = WHOLE_NUMBER.fullmatch(cells[field].strip())
    if found is None or int(found[1]) > MAX_ROW_TOKENS:
        raise bad(path, line, field, f"{echo(cells[field])} is not a number of tokens", FIX)
    return int(found[1])


def _seconds_ns(path: Path, line: int, text: str) -> int:
    try:
        seconds = Decimal(text.strip())
    except InvalidOperation:
        seconds = Decimal("NaN")
    if not seconds.is_finite() or seconds < 0 or seconds > MAX_TIME_S:
        raise bad(path, line, "Timestamp", f"{echo(text)} is not a time in seconds", FIX)
    return seconds_ns(seconds)


def _instant_ns(path: Path, line: int, text: str) -> int:
    """Nanoseconds since 1970; a time without an offset counts as UTC."""
    found = AZURE_TIME.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        second, fraction, _, sign, hours, minutes = found.groups()
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        at_s = _epoch_s(second) - (-1 if sign == "-" else 1) * int(offset.total_seconds())
    except ValueError:
        raise bad(path, line, "TIMESTAMP", f"{echo(text)} is not a time", f"give it as {AZURE_FORM}") from None
    return at_s * NS_PER_S + int((fraction or "0").ljust(9, "0"))


@lru_cache(maxsize=16)
def _epoch_s(text: str) -> int:
    return int((datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH).total_seconds())
