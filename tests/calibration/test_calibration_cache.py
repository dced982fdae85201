"""The calibration of this machine is found again, that of another state is not, and a run takes it along."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf.hardware.kept import path_of
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.calibration import cache as calibration_cache
from bytemlperf_llm.calibration.cache import CHANGED, NOT_CALIBRATED, UNREADABLE, client_section, keep, load
from tests.calibration.made import calibration, errors, step
from tests.runs.made_run import made_run, summary_in

HERE = {"cpu": "a", "cores": "2", "kernel": "6.1"}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    root = tmp_path / "cache"
    monkeypatch.setenv("BMP_CACHE", str(root))
    monkeypatch.setattr(calibration_cache, "machine", lambda: HERE)
    return root


def test_what_is_kept_is_found_again():
    made = calibration(step(10), machine=HERE)
    path = keep(made)
    assert path == path_of("calibration", HERE)
    assert load() == (made, "")


@pytest.mark.parametrize("key", sorted(HERE))
def test_another_state_of_the_machine_is_another_file(key):
    keep(calibration(step(10), machine=HERE))
    other = HERE | {key: "x"}
    assert path_of("calibration", other) != path_of("calibration", HERE)
    assert load(other) == (None, CHANGED)


def test_the_key_names_all_that_speed_depends_on(monkeypatch):
    monkeypatch.undo()
    assert set(calibration_cache.machine()) == {"cpu", "cores", "kernel", "python", "loop", "bytemlperf_llm", "token_loops"}


def test_no_calibration():
    assert load() == (None, NOT_CALIBRATED)
    assert client_section() == {"calibration": None, "note": NOT_CALIBRATED}


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", b'{"made_at": 3}'])
def test_a_file_that_is_no_calibration(cache, content):
    cache.mkdir()
    path_of("calibration", HERE).write_bytes(content)
    assert load() == (None, UNREADABLE)


def test_a_file_under_a_wrong_name_is_not_believed(cache):
    made = calibration(step(10), machine=HERE | {"kernel": "5"})
    cache.mkdir()
    path_of("calibration", HERE).write_bytes(msgspec.json.encode(made))
    assert load() == (None, CHANGED)


def test_a_cache_that_cant_be_written(cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="BMP_CACHE"):
        keep(calibration(machine=HERE))


# -- a run takes it along ------------------------------------------------------------------


def over_http(folder: Path, **engine: str) -> Path:
    """The made run, as if its engine had been a server."""
    run = json.loads((folder / "run.json").read_text())
    run["engine"] |= {"name": "openai"} | engine
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_a_run_has_the_error_bar_of_its_own_load(tmp_path):
    keep(calibration(step(10, ttft=errors(0.1, 0.2)), step(100, ttft=errors(0.3, 0.4)), machine=HERE))
    found = summary_in(over_http(made_run(tmp_path / "run", requests=10))).client_error
    assert found is not None
    assert found.note == ""
    # twenty chunks from the first request due, at 0, to the last one ended, at 100.02 ms; streams of 9 ms each
    assert found.chunks_per_s == pytest.approx(20 / 0.10002, rel=1e-3)
    assert found.streams == pytest.approx(10 * 0.009 / 0.10002, rel=1e-3)
    assert (found.at_chunks_per_s, found.ttft_p50_ms, found.ttft_p99_ms) == (320, 0.1, 0.2)


def test_several_workers_share_the_load(tmp_path):
    keep(calibration(step(10), machine=HERE))
    folder = over_http(made_run(tmp_path / "run", requests=10))
    alone = summary_in(folder).client_error
    run = json.loads((folder / "run.json").read_text())
    run["workers"] = [{"worker": 0}, {"worker": 1, "same_clock": True}]
    (folder / "run.json").write_text(json.dumps(run))
    shared = summary_in(folder).client_error
    assert alone is not None
    assert shared is not None
    assert (shared.chunks_per_s, shared.streams) == (pytest.approx((alone.chunks_per_s or 0) / 2), pytest.approx((alone.streams or 0) / 2))


def test_the_summary_stays_the_same_when_the_machine_is_calibrated_later(tmp_path):
    folder = made_run(tmp_path / "run")
    before = msgspec.json.encode(summary_in(folder))
    keep(calibration(step(10), machine=HERE))
    assert msgspec.json.encode(summary_in(folder)) == before
    assert verify_suite(folder).findings == []


def test_engines_in_process_and_other_transports_have_no_error_bar(tmp_path):
    keep(calibration(step(10), machine=HERE))
    folder = made_run(tmp_path / "run")
    note = summary_in(folder).client_error
    assert note is not None
    assert note.note.startswith("not known: engine 'reference' runs in the client's own process")
    over_http(folder, notes=["aiohttp transport: stamps are taken after its HTTP parser"])
    aiohttp = summary_in(folder).client_error
    assert aiohttp is not None
    assert aiohttp.note == "not known: the aiohttp transport is not calibrated"


def test_workers_on_other_machines_have_no_error_bar(tmp_path):
    keep(calibration(step(10), machine=HERE))
    folder = over_http(made_run(tmp_path / "run"))
    run = json.loads((folder / "run.json").read_text())
    run["workers"] = [{"worker": 0, "same_clock": True}, {"worker": 1, "same_clock": False}]
    (folder / "run.json").write_text(json.dumps(run))
    found = summary_in(folder).client_error
    assert found is not None
    assert found.note == "not known: workers ran on other machines than the one that is calibrated"


@pytest.mark.parametrize(
    ("client", "note"),
    [
        ({"calibration": {"made_at": 3}, "note": ""}, "the calibration in run.json is damaged"),
        ({}, NOT_CALIBRATED),
        ({"calibration": None, "note": CHANGED}, CHANGED),
    ],
)
def test_what_a_run_without_a_calibration_says(tmp_path, client, note):
    folder = over_http(made_run(tmp_path / "run"))
    run = json.loads((folder / "run.json").read_text())
    run["client"] = client
    (folder / "run.json").write_text(json.dumps(run))
    found = summary_in(folder).client_error
    assert found is not None
    assert found.note.startswith(note)
    assert found.ttft_p50_ms is None
