"""Runs that are stopped, killed, or out of disk, as a user meets them; and how they go on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import termios
import time

import pytest

from tests.cli.helpers import CLOSED, COMMAND, QUICK, bmp, run_folder, start
from tests.runs.reading import read_records, records_of

PACED = (*QUICK, "--request-rate", "200", "--num-prompts", "300")


def wait_for_records(place, count, process, timeout_s=60):
    """The run folder, once its logs hold so many lines."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        for folder in place.glob("runs/*"):
            if sum(log.read_bytes().count(b"\n") for log in folder.glob("records*.jsonl")) >= count:
                return folder
        time.sleep(0.01)
    raise AssertionError(f"no {count} records; exit status {process.poll()}")


def stopped_run(place, records, number, *words):
    """A run that got a signal after so many records."""
    process = start(*(words or PACED), cwd=place)
    folder = wait_for_records(place, records, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    return folder


def loaded(folder, name):
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_goes_on_to_its_end(tmp_path, number):
    folder = stopped_run(tmp_path, 60, number)
    before = list(read_records(folder))
    hash_before = loaded(folder, "run.json")["schedule_sha256"]
    ended = bmp("resume", str(folder), cwd=tmp_path)
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr  # a busy machine may send late
    assert run_folder(ended.stdout, tmp_path) == folder
    assert "resumed" in ended.stdout
    run, summary = loaded(folder, "run.json"), loaded(folder, "summary.json")
    assert summary["outcomes"]["ok"] == summary["scheduled"] == 300
    assert run["schedule_sha256"] == hash_before
    assert [part["logs"] for part in run["resumed"]] == [["records-1.jsonl"]]
    assert run["resumed"][0]["records_before"] == len(before)
    added = records_of(folder / "records-1.jsonl")
    assert sorted(record.index for record in [*before, *added]) == list(range(300)), "each request once"
    assert min(record.planned_ns for record in added) >= max(record.end_ns for record in before), "one time axis"
    verified = bmp("verify", str(folder), cwd=tmp_path)
    assert (verified.returncode, verified.stdout.count("problem")) == (0, 0), verified.stdout


def test_gaps_of_the_rest_are_those_of_the_schedule(tmp_path):
    folder = stopped_run(tmp_path, 60, signal.SIGKILL)
    whole = bmp(*PACED, "--quiet", cwd=tmp_path)
    planned = {record.index: record.planned_ns for record in read_records(run_folder(whole.stdout, tmp_path))}
    bmp("resume", str(folder), "--quiet", cwd=tmp_path)
    shift_ns = loaded(folder, "run.json")["resumed"][0]["shift_ns"]
    added = records_of(folder / "records-1.jsonl")
    assert added
    assert all(record.planned_ns == planned[record.index] + shift_ns for record in added)


def test_a_run_may_be_killed_and_resumed_many_times(tmp_path):
    folder = stopped_run(tmp_path, 40, signal.SIGKILL)
    for records in (90, 140):
        process = start("resume", str(folder), cwd=tmp_path)
        wait_for_records(tmp_path, records, process)
        process.kill()
        process.communicate()
    ended = bmp("resume", str(folder), "--quiet", cwd=tmp_path)
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    assert len(loaded(folder, "run.json")["resumed"]) == 3
    assert sorted(record.index for record in read_records(folder)) == list(range(300))
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0


def test_a_closed_loop_with_a_duration_gets_the_rest_of_its_time(tmp_path):
    words = (*CLOSED, "--max-concurrency", "4", "--duration", "2")
    folder = stopped_run(tmp_path, 60, signal.SIGKILL, *words)
    until_s = max(record.end_ns for record in read_records(folder)) / 1e9
    assert until_s < 2
    assert bmp("resume", "--trust", str(folder), cwd=tmp_path).returncode in (0, 1)
    records = list(read_records(folder))
    assert len({record.index for record in records}) == len(records) == loaded(folder, "run.json")["facts"]["scheduled_requests"]
    assert 1.9e9 < max(record.end_ns for record in records) < 4e9
    again = bmp("resume", "--trust", str(folder), cwd=tmp_path)
    assert (again.returncode, "is complete" in again.stderr) == (2, True)


def test_a_run_that_is_going_on_is_left_alone(tmp_path):
    process = start(*PACED, cwd=tmp_path)
    folder = wait_for_records(tmp_path, 10, process)
    ended = bmp("resume", str(folder), cwd=tmp_path)
    process.kill()
    process.communicate()
    assert ended.returncode == 2
    assert "still being written" in ended.stderr


def test_a_header_is_asked_for_again(tmp_path):
    server = start("reference-server", "--port", "0", "--engine-option", "ttft_ms=5", cwd=tmp_path)
    try:
        url = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
        words = ("serve-bench", "--engine", "openai", "--base-url", url, "--model", "reference", "--scenario", "smoke",
                 "--num-warmups", "0", "--request-rate", "100", "--num-prompts", "150", "--header", "X-Team: blue-and-secret")  # fmt: skip
        folder = stopped_run(tmp_path, 30, signal.SIGKILL, *words)
        refused = bmp("resume", str(folder), "--base-url", url, cwd=tmp_path)
        assert (refused.returncode, "--header 'x-team: VALUE'" in refused.stderr) == (2, True), refused.stderr
        resumed = bmp("resume", str(folder), "--base-url", url, "--header", "X-Team: blue-and-secret", cwd=tmp_path)
        assert resumed.returncode in (0, 1), resumed.stderr
    finally:
        server.kill()
        server.communicate()
    assert b"blue-and-secret" not in b"".join(path.read_bytes() for path in folder.iterdir())


# -- ends ------------------------------------------------------------------------------------

SLOW = ("--engine-option", "ttft_ms=60000")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_exits_at_once(tmp_path, number, status):
    process = start(*PACED, "--num-prompts", "100000", "--engine-option", "itl_ms=5000", cwd=tmp_path)
    _wait_for_log(tmp_path, process)
    process.send_signal(number)
    assert "once more to exit" in _line_with(process.stderr, "stopping")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == status
    assert "Traceback" not in stderr
    assert "bmp-llm resume" in stderr


def _wait_for_log(place, process, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not list(place.glob("runs/*/records.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)


def _line_with(stream, word):
    for line in stream:
        if word in line:
            return line
    return ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_before_the_first_request_ends_it_and_leaves_no_folder(tmp_path, number, status):
    process = start(*QUICK, *SLOW, "--request-rate", "10", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)  # into the ready check, which waits for its first token
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == status
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.glob("runs/*")) == []


def test_a_terminal_that_goes_away_stops_the_run_and_loses_nothing(tmp_path):
    """Its hang-up drains like any stop, and that no word can be written any more ends nothing."""
    master, slave = os.openpty()

    def take_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    words = [*COMMAND, *QUICK, "--request-rate", "100", "--num-prompts", "3000", "--workers", "2"]
    process = subprocess.Popen(
        words, cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=take_terminal
    )
    os.close(slave)
    folder = wait_for_records(tmp_path, 30, process)
    os.close(master)
    assert process.wait(timeout=60) == 1, "invalid: most of its schedule was not sent"
    assert loaded(folder, "run.json")["end"]["stopped_by_user"]
    outcomes = loaded(folder, "summary.json")["outcomes"]
    assert sum(outcomes.values()) == 3000
    assert outcomes["failed"] == outcomes["in_flight"] == 0, "both workers drained"
    assert (folder / "report.html").exists(), "what follows the last word on the terminal was done"


def test_nohup_is_heeded(tmp_path):
    process = subprocess.Popen(["nohup", *COMMAND, *PACED], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = wait_for_records(tmp_path, 30, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert loaded(folder, "summary.json")["outcomes"]["ok"] == 300


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, for those who may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_the_run_invalid_with_everything_so_far(small_disk):
    ended = bmp(*QUICK, "--request-rate", "500", "--num-prompts", "5000", cwd=small_disk)
    folder = run_folder(ended.stdout, small_disk)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "INVALID" in ended.stdout
    assert "No space left" in ended.stdout
    assert "can't write" in ended.stderr, "the summary has no room, and that is said"
    reader = read_records(folder)
    records = list(reader)
    assert len(records) > 50
    assert reader.damages == []
    assert f"{len(records):,} ok" in ended.stdout, "the printed summary counts what is kept"


def test_a_disk_that_is_full_from_the_start_is_one_line(small_disk):
    filler = os.open(small_disk / "filler", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(filler, b"x" * 4096)
    os.close(filler)
    ended = bmp(*QUICK, "--request-rate", "500", "--num-prompts", "10", cwd=small_disk)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "No space left" in ended.stderr


def test_a_read_only_folder_is_one_line(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ended = bmp(*QUICK, "--request-rate", "500", "--num-prompts", "10", cwd=small_disk)
    assert ended.returncode == 2
    assert "Read-only" in ended.stderr
    assert "Traceback" not in ended.stderr


# -- kill -9 -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("records", [1, 17, 80, 171, 290])
def test_kill_nine_in_mid_run_loses_no_completed_record(tmp_path, records):
    """What the server knows to have answered is in the log, but for what ended in the last moment."""
    folder = stopped_run(tmp_path, records, signal.SIGKILL)
    reader = read_records(folder)
    indices = [record.index for record in reader]
    assert len(indices) >= records
    assert len(set(indices)) == len(indices)
    assert all(damage.kind == "torn tail" for damage in reader.damages)
    assert os.path.getsize(folder / "records.jsonl") > 0


def test_a_finished_run_is_extended_on_the_schedule_that_it_had(tmp_path):
    ended = bmp(*QUICK, "--request-rate", "400", "--num-prompts", "60", cwd=tmp_path)
    folder = run_folder(ended.stdout, tmp_path)
    sixty = loaded(folder, "run.json")["schedule_sha256"]
    assert "60 records already" in bmp("resume", str(folder), "--num-prompts", "60", cwd=tmp_path).stderr
    assert "--num-prompts" in bmp("resume", str(folder), cwd=tmp_path).stderr
    ended = bmp("resume", str(folder), "--num-prompts", "100", cwd=tmp_path)
    assert ended.returncode in (0, 1), ended.stderr
    run, summary = loaded(folder, "run.json"), loaded(folder, "summary.json")
    assert summary["outcomes"]["ok"] == summary["scheduled"] == 100
    assert run["resumed"][0]["records_before"] == 60
    assert sorted(record.index for record in read_records(folder)) == list(range(100))
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0
    whole = bmp(*QUICK, "--request-rate", "400", "--num-prompts", "100", cwd=tmp_path)
    assert loaded(run_folder(whole.stdout, tmp_path), "run.json")["schedule_sha256"] == run["schedule_sha256"] != sixty


def test_a_stopped_run_is_extended_beyond_its_schedule(tmp_path):
    folder = stopped_run(tmp_path, 60, signal.SIGINT)
    ended = bmp("resume", str(folder), "--num-prompts", "320", cwd=tmp_path)
    assert ended.returncode in (0, 1), ended.stderr
    assert loaded(folder, "summary.json")["outcomes"]["ok"] == 320


def test_a_closed_loop_that_time_ended_is_extended_by_number(tmp_path):
    ended = bmp(*CLOSED, "--max-concurrency", "4", "--duration", "0.3", cwd=tmp_path)
    folder = run_folder(ended.stdout, tmp_path)
    records = loaded(folder, "summary.json")["scheduled"]
    assert bmp("resume", str(folder), "--trust", "--num-prompts", str(records + 30), cwd=tmp_path).returncode in (0, 1)
    assert loaded(folder, "summary.json")["outcomes"]["ok"] == records + 30
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0


def test_a_trace_is_extended_to_its_end_and_a_ramp_is_not(tmp_path):
    traced = (*QUICK, "--dataset-name", "azure", "--time-scale", "0.001", "--output-len", "4", "--num-prompts", "30")
    folder = run_folder(bmp(*traced, "--max-model-len", "9000", "--on-too-long", "truncate", cwd=tmp_path).stdout, tmp_path)
    before = (folder / "run.json").read_bytes()
    ended = bmp("resume", str(folder), "--trust", "--num-prompts", "100000", cwd=tmp_path)
    assert (ended.returncode, "the trace ends after 332 requests" in ended.stderr) == (2, True), ended.stderr
    assert (folder / "run.json").read_bytes() == before
    ramp = ("--ramp-up-strategy", "linear", "--ramp-up-start-rps", "200", "--ramp-up-end-rps", "400")
    folder = run_folder(bmp(*QUICK, *ramp, "--num-prompts", "30", cwd=tmp_path).stdout, tmp_path)
    assert "a ramp over more requests" in bmp("resume", str(folder), "--num-prompts", "60", cwd=tmp_path).stderr
