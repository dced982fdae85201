"""Rows of the catalogue as CSV (no cell of which a spreadsheet runs), JSON or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from bytemlperf.catalogue.index import Row, Value
from bytemlperf.errors import UserError
from bytemlperf.extras import require
from bytemlperf.report.text import guard_formula
from bytemlperf.runs.files import writing

SUFFIXES = (".csv", ".json", ".parquet")


def check_suffix(path: Path) -> None:
    """Raises UserError for a file whose name doesn't say its format."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} has no supported format", f"name a file that ends in {', '.join(SUFFIXES)}")


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write them by the file's suffix. Raises UserError."""
    check_suffix(path)
    with writing(path, "give another path"):
        {".csv": _csv, ".json": _json, ".parquet": _parquet}[path.suffix](path, columns, rows)


def _csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([guard_formula(name) for name in columns])
        for row in rows:
            writer.writerow([_cell(value) for value in row])


def _cell(value: Value) -> Value:
    if isinstance(value, list):
        return guard_formula(" ".join(map(str, value)))
    return guard_formula(value) if isinstance(value, str) else value


def _json(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    content = [dict(zip(columns, row, strict=True)) for row in rows]
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=datetime.isoformat) + "\n", encoding="utf-8")


def _parquet(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    require(str(path), "analysis", "polars")
    import polars

    polars.DataFrame([list(row) for row in rows], schema=list(columns), orient="row", infer_schema_length=None).write_parquet(path)
