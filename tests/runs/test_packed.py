"""Logs at rest: packed at a run's end where they are large, read as they were, never both."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from bytemlperf.lazy import zstd
from bytemlperf.runs import files
from bytemlperf.runs.files import lines_of, pack_logs, record_logs, unpack_logs
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import SuiteRun, verify_suite
from bytemlperf.runs.verify import summarize_any
from bytemlperf_llm.record.record import SAFE_GAPS, RequestRecord
from tests.metrics.records import answered
from tests.runs.made_run import made_run

LINES = [json.dumps({"index": index, "noise": os.urandom(40).hex()}).encode() + b"\n" for index in range(12_000)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"".join(LINES))
    return path


def test_a_large_log_is_packed_and_read_as_it_was(log: Path) -> None:
    size = log.stat().st_size
    pack_logs(log.parent)
    packed = log.with_name("records.jsonl.zst")
    assert record_logs(log.parent) == [packed]
    assert [*log.parent.iterdir()] == [packed]
    assert packed.stat().st_size < 0.7 * size, "hexadecimal noise has half of its size"
    assert list(lines_of(packed)) == LINES
    unpack_logs(log.parent)
    assert [*log.parent.iterdir()] == [log]
    assert log.read_bytes() == b"".join(LINES)


def test_a_small_log_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(LINES[0])
    pack_logs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_crash_between_the_two_leaves_one_that_counts(log: Path) -> None:
    whole = log.read_bytes()
    pack_logs(log.parent)
    log.write_bytes(whole)
    assert record_logs(log.parent) == [log]


def test_what_can_not_be_written_leaves_the_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        pack_logs(log.parent)
    assert [*log.parent.iterdir()] == [log]


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_one_cut_anywhere_gives_whole_lines_and_says_so(log: Path, cut: int) -> None:
    pack_logs(log.parent)
    packed = record_logs(log.parent)[0]
    content = packed.read_bytes()
    packed.write_bytes(content[: len(content) * cut // 100])
    records = RunRecords(log.parent)
    whole = list(records)
    assert [f"{json.dumps(each)}\n".encode() for each in whole] == LINES[: len(whole)]
    assert len(whole) >= len(LINES) * cut // 100 - 2 * files.BLOCK_BYTES // len(LINES[0])
    if cut:
        assert [damage.kind for damage in records.damages] == ["can't be read (it is cut or damaged)"]


@pytest.mark.parametrize("place", range(5, 100, 9))
def test_a_flipped_byte_is_damage(log: Path, place: int) -> None:
    pack_logs(log.parent)
    packed = record_logs(log.parent)[0]
    content = bytearray(packed.read_bytes())
    content[len(content) * place // 100] ^= 0x55
    packed.write_bytes(content)
    records = RunRecords(log.parent)
    assert len(list(records)) < len(LINES)
    assert records.damages


def test_a_bomb_ends(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl.zst").write_bytes(zstd.compress(b"{}\n" * (300 << 20 >> 1)))
    records = RunRecords(tmp_path)
    assert sum(1 for _ in records) * 3 < 201 * (files.BLOCK_BYTES + (tmp_path / "records.jsonl.zst").stat().st_size)
    assert "more than 200 times as large" in records.damages[0].kind


def test_gaps_in_the_log_are_times_in_memory() -> None:
    written: list[bytes] = []
    made = answered(0, 0, 0, [5, 9, 9, 14])
    made.log(lambda each: written.append(msgspec.json.encode(each)))
    assert json.loads(written[0])["chunk_gaps_ns"] == [5_000_000, 4_000_000, 0, 5_000_000]
    assert b"chunk_ns" not in written[0]
    assert made.chunk_ns == [5_000_000, 9_000_000, 9_000_000, 14_000_000]
    assert made.chunk_gaps_ns == []
    assert msgspec.json.decode(written[0], type=RequestRecord) == made


def test_gaps_that_lead_beyond_a_column_are_no_record() -> None:
    line = msgspec.json.encode(
        {"id": "a", "index": 0, "planned_ns": 0, "end_ns": 0, "outcome": "ok", "chunk_gaps_ns": [1 << 52] * (SAFE_GAPS + 1)}
    )
    with pytest.raises(msgspec.ValidationError, match="too long"):
        msgspec.json.decode(line, type=RequestRecord)


def test_a_run_is_summarised_verified_and_resumed_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MIN_PACKED_BYTES", 1)
    folder = made_run(tmp_path / "run")
    before = verify_suite(folder)
    pack_logs(folder)
    assert [path.name for path in record_logs(folder)] == ["records.jsonl.zst"]
    summarize_any(folder)
    assert verify_suite(folder).records == before.records == 4
    with SuiteRun.open(folder, "llm") as run:
        run.go_on(command=["bmp-llm"], log=None, more={"records_before": 4, "shift_ns": 0, "begin_ns": 0, "logs": []})
        assert [path.name for path in record_logs(folder)] == ["records.jsonl"]
