"""The record log and its reader: nothing counted is lost, nothing read raises."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from bytemlperf.errors import UserError
from bytemlperf.runs.folder import FORMAT_VERSION, create_run_folder, read_run_json, write_json
from bytemlperf.runs.log import LogFull, RecordLog
from bytemlperf.runs.suite import SuiteRun
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import Stages
from tests.runs.reading import read_records


def record(index: int, **changes) -> RequestRecord:
    values = {
        "id": f"r{index}",
        "index": index,
        "planned_ns": index * 1000,
        "sent_ns": index * 1000 + 5,
        "chunk_ns": list(range(index, index + 40)),
        "tokens_per_chunk": [1] * 40,
        "end_ns": 10**9,
        "outcome": "ok",
        "output_tokens": 40,
        "stages": Stages(queued_ns=1, first_token_ns=2),
        "error_detail": "käse\u2028\n",
    }
    return RequestRecord(**(values | changes))


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "run.json", {"format_version": FORMAT_VERSION, "kind": "llm"})
    return tmp_path


def test_what_was_written_is_read_back(folder):
    log = RecordLog(folder / "records.jsonl")
    written = [record(0), record(1, chunk_ns=[], tokens_per_chunk=[], outcome="failed", error_class="tls"), record(2)]
    for each in written:
        log.append(each)
    log.close()
    reader = read_records(folder)
    assert list(reader) == written
    assert reader.damages == []
    assert log.records == 3


def test_a_shorter_record_leaves_nothing_of_a_longer_one(folder):
    log = RecordLog(folder / "records.jsonl")
    log.append(record(0, chunk_ns=list(range(10_000)), tokens_per_chunk=[1] * 10_000))
    log.append(record(1, chunk_ns=[], tokens_per_chunk=[]))
    log.close()
    lines = (folder / "records.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1]


def test_a_log_is_never_overwritten(folder):
    RecordLog(folder / "records.jsonl").close()
    with pytest.raises(FileExistsError):
        RecordLog(folder / "records.jsonl")


def test_cut_at_every_byte_gives_every_whole_record(folder):
    path = folder / "records.jsonl"
    log = RecordLog(path)
    for index in range(4):
        log.append(record(index, chunk_ns=[1, 2], tokens_per_chunk=[1, 1]))
    log.close()
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        reader = read_records(folder)
        read = list(reader)
        complete = sum(1 for end in ends if end <= cut)
        assert [each.index for each in read] == list(range(complete))
        torn = cut - (ends[complete - 1] if complete else 0)
        assert [(damage.kind, damage.length_bytes) for damage in reader.damages] == ([("torn tail", torn)] if torn else [])


def test_a_broken_line_in_the_middle_is_named_and_skipped(folder):
    path = folder / "records.jsonl"
    log = RecordLog(path)
    for index in range(3):
        log.append(record(index))
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"id": "\xff\xfe", nonsense\n' + lines[2])
    reader = read_records(folder)
    assert [each.index for each in reader] == [0, 2]
    assert [(damage.kind, damage.offset_bytes) for damage in reader.damages] == [("not a record", len(lines[0]))]


def test_a_number_too_large_for_a_column_is_no_record(folder):
    path = folder / "records.jsonl"
    log = RecordLog(path)
    log.append(record(0))
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + whole.replace(b'"end_ns":1000000000', b'"end_ns":1' + b"0" * 30))
    reader = read_records(folder)
    assert len(list(reader)) == 1
    assert [damage.kind for damage in reader.damages] == ["not a record"]


def test_a_killed_process_loses_no_counted_record(folder):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bytemlperf.runs.log import RecordLog\n"
        "from tests.runs.test_log import record\n"
        "log = RecordLog(Path(sys.argv[1]) / 'records.jsonl')\n"
        "for index in range(10**9):\n"
        "    log.append(record(index))\n"
        "    print(log.records, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    counted = 0
    for line in process.stdout:
        counted = int(line)
        if counted >= 200:
            break
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    counted = int(rest[-1]) if rest else counted
    read = [each.index for each in read_records(folder)]
    assert read == list(range(len(read)))
    assert len(read) >= counted


def test_a_full_disk_is_said_and_what_was_written_is_whole(folder):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = RecordLog(folder / "records.jsonl")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        with pytest.raises(LogFull):
            _append_many(log, 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    log.close()
    assert len(list(read_records(folder))) == log.records > 0


def _append_many(log, count):
    for index in range(count):
        log.append(record(index))


def test_a_run_folder_is_named_and_new(tmp_path):
    folder = create_run_folder(tmp_path / "runs", "llm", "vllm chat/../x")
    assert folder.parent == tmp_path / "runs"
    assert "-llm-vllm-chat-..-x-" in folder.name or "-llm-vllm-chat-" in folder.name
    assert create_run_folder(tmp_path / "runs", "llm", "vllm chat") != folder


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--runs-dir"):
        create_run_folder(tmp_path / "file", "llm", "x")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "has no run.json"),
        ("{", "can't be read"),
        ("[]", "not a run description"),
        ('{"format_version": 99}', "format version 99"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, content, cause):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=cause):
        read_run_json(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_run_json(tmp_path / "nowhere")


def test_a_torn_record_is_taken_off_again_and_the_next_begins_a_line(folder, monkeypatch):
    log = RecordLog(folder / "records.jsonl")
    log.append(record(0))
    real = os.write
    monkeypatch.setattr("os.write", lambda fd, data: real(fd, bytes(data)[:100]))
    with pytest.raises(LogFull, match="only 200 of"):
        log.append(record(1))
    monkeypatch.undo()
    log.append(record(2))
    log.close()
    reader = read_records(folder)
    assert [each.index for each in reader] == [0, 2]
    assert reader.damages == []


@pytest.mark.slow
def test_a_hundred_writers_killed_at_random_lose_no_counted_record(tmp_path):
    """Each writer tells through a pipe what it has counted; its log must hold at least that, whole and in order."""
    draw, all_counted = random.Random(4), 0
    for number in range(100):
        path = tmp_path / f"{number}" / "records.jsonl"
        path.parent.mkdir()
        write_json(path.parent / "run.json", {"format_version": FORMAT_VERSION, "kind": "llm"})
        counted = _killed_writer(path, draw.uniform(0.0, 0.05))
        reader = read_records(path.parent)
        read = [each.index for each in reader]
        assert read == list(range(len(read)))
        assert len(read) >= counted
        all_counted += counted
        assert all(damage.kind == "torn tail" for damage in reader.damages)
    assert all_counted > 1000


def _killed_writer(path, after_s):
    """Fork a writer, kill it after that time; returns how many records it had counted."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        log = RecordLog(path)
        for index in range(10**9):
            log.append(record(index))
            os.write(tell, b".")
    os.close(tell)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    counted = 0
    while told_now := os.read(told, 1 << 16):
        counted += len(told_now)
    os.close(told)
    return counted


# -- a run that another process writes -----------------------------------------------------


def test_a_suites_run_that_is_still_written_is_not_resumed_and_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("bytemlperf.runs.suite.summarise_suite", lambda *_: {"verdict": "valid"})
    with SuiteRun.begin(tmp_path, "micro", "busy", {}, command=["bmp", "micro"], seed=0) as run:
        log = run.folder / "records.jsonl"
        with log.open("ab") as file:
            file.write(b'{"half')  # what the writing process is in the middle of
        with pytest.raises(UserError, match="still being written"):
            SuiteRun.open(run.folder, "micro")
        assert log.read_bytes() == b'{"half', "the line under way stays whole"
    resumed = SuiteRun.open(run.folder, "micro")
    resumed.go_on(command=["bmp", "micro", "resume"])
    assert log.read_bytes() == b""
    resumed.append({"case": 1})
    resumed.end()
    assert log.read_bytes() == b'{"case":1}\n'
