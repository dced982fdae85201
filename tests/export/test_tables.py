"""CSV and Parquet: every field comes back, and no cell starts a formula."""

from __future__ import annotations

import csv
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemlperf.errors import UserError
from bytemlperf.report.text import guard_formula
from bytemlperf_llm.export.tables import COLUMNS, CsvTable, ParquetTable, row_of
from engines.contract import Stages
from tests.metrics.records import MS, answered, failed, poisson_run

STAGES = Stages(queued_ns=2 * MS, scheduled_ns=5 * MS, first_token_ns=9 * MS, last_token_ns=19 * MS)
RECORDS = [
    answered(0, 0, 1, [10, 20], stages=STAGES, output="=cmd|' /C calc'!A0", session="s", finish_reason="stop"),
    failed(1, 5, 9, error_detail='line, with "quotes"\nand more'),
    failed(2, None, 9, error_detail="@SUM(1)"),
]


def write(table, path, records):
    """All of them as one file."""
    rows = table(path)
    for record in records:
        rows.add(record)
    rows.close()


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_every_field_and_metric(tmp_path):
    write(CsvTable, tmp_path / "r.csv", RECORDS)
    rows = read_csv(tmp_path / "r.csv")
    assert list(rows[0]) == list(COLUMNS)
    first = rows[0]
    assert (first["ttft_ns"], first["service_ttft_ns"], first["tpot_ns"], first["e2e_ns"]) == (
        "10000000",
        "9000000",
        "10000000",
        "20000000",
    )
    assert (first["ntpot_ns"], first["max_stall_ns"], first["schedule_lateness_ns"]) == ("10000000", "10000000", "1000000")
    assert json.loads(first["chunk_ns"]) == [10 * MS, 20 * MS]
    assert (first["stage_queued_ns"], first["stage_last_token_ns"]) == ("2000000", "19000000")
    assert (rows[1]["error_detail"], rows[1]["ttft_ns"], rows[2]["sent_ns"]) == (RECORDS[1].error_detail, "", "")


def test_csv_cells_start_no_formula(tmp_path):
    write(CsvTable, tmp_path / "r.csv", RECORDS)
    rows = read_csv(tmp_path / "r.csv")
    assert rows[0]["output"] == "'=cmd|' /C calc'!A0"
    assert rows[2]["error_detail"] == "'@SUM(1)"
    assert not any(cell[:1] in ("=", "+", "-", "@", "\t", "\r") for row in rows for cell in row.values())


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r", "\n", " =1", "＝1", "\u00a0=1"])
def test_formula_starts_are_guarded(text):
    assert guard_formula(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", " ", "a=1", "1-2", "'=1", "日本", "[1]"])
def test_plain_text_stays(text):
    assert guard_formula(text) == text


@given(st.text(max_size=20))
def test_a_guarded_cell_never_starts_a_formula(text):
    assert guard_formula(text).lstrip()[:1] not in tuple("=+-@＝＋－＠")


def test_csv_survives_text_that_is_not_unicode(tmp_path):
    write(CsvTable, tmp_path / "r.csv", [answered(0, 0, 0, [1], output="a\ud800b")])
    assert read_csv(tmp_path / "r.csv")[0]["output"] == "a\\ud800b"


def test_parquet_gives_back_every_field(tmp_path):
    polars = pytest.importorskip("polars")
    write(ParquetTable, tmp_path / "r.parquet", RECORDS)
    frame = polars.read_parquet(tmp_path / "r.parquet")
    assert frame.columns == list(COLUMNS)
    assert frame.to_dicts() == [row_of(record) for record in RECORDS]


def test_parquet_types_do_not_depend_on_the_values(tmp_path):
    polars = pytest.importorskip("polars")
    for name, records in {"none": [], "failed": RECORDS[1:], "all": [*RECORDS, *poisson_run(5, 10)]}.items():
        write(ParquetTable, tmp_path / f"{name}.parquet", records)
    schemas = [polars.read_parquet_schema(tmp_path / f"{name}.parquet") for name in ("none", "failed", "all")]
    assert schemas[0] == schemas[1] == schemas[2]


def test_parquet_without_polars_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UserError, match=r"pip install 'bytemlperf-llm\[analysis\]'"):
        write(ParquetTable, tmp_path / "r.parquet", RECORDS)


@pytest.mark.parametrize("table", [CsvTable, ParquetTable])
def test_an_unwritable_place_is_one_line(table, tmp_path):
    if table is ParquetTable:
        pytest.importorskip("polars")
    with pytest.raises(UserError, match="can't write"):
        write(table, tmp_path / "missing" / "file", RECORDS)
