"""What is wrong with a folder is named on the page, and everything that can be read is still shown."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bytemlperf.errors import UserError
from bytemlperf.report.gather import view_run
from bytemlperf.report.write import report_after_run, write_report
from tests.report.inside import bmp
from tests.report.made import llm_run, read


@pytest.fixture
def run(tmp_path):
    return llm_run(tmp_path / "run", 120)


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    ended = bmp("report", str(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "has no run.json" in ended.stderr


def test_a_process_ends_the_same_way(tmp_path):
    command = [sys.executable, "-c", "from bytemlperf.app import main; main()", "report", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == bmp("report", str(tmp_path)).stderr


def test_an_unknown_format_is_one_line(run):
    ended = bmp("report", str(run), "--format", "docx")
    assert ended.returncode == 2
    assert "html" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_torn_log_is_named_and_the_rest_shown(run):
    log = run / "records.jsonl"
    log.write_bytes(log.read_bytes()[:-37])
    view = view_run(run)
    assert any("torn tail" in text for text in view.problems)
    assert view.figures
    assert "torn tail" in write_report(run).read_text()


def test_a_line_that_is_no_record_is_named(run):
    log = run / "records.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[5] = b'{"nonsense": 1}\n'
    log.write_bytes(b"".join(lines))
    assert any("not a record" in text for text in view_run(run).problems)


def test_a_newer_format_is_named_and_shown_as_far_as_it_is_understood(run):
    content = read(run, "run.json") | {"format_version": 99}
    (run / "run.json").write_text(json.dumps(content))
    view = view_run(run)
    assert any("format version 99" in text for text in view.problems)
    assert view.label == "made"
    assert view.summary["verdict"] == "valid"


def test_a_kind_that_nobody_knows_shows_what_every_run_has(run):
    content = read(run, "run.json") | {"kind": "quantum"}
    (run / "run.json").write_text(json.dumps(content))
    page = write_report(run).read_text()
    assert "quantum" in page
    assert "unknown kind of run" in page
    assert "To run it again" in page


def test_a_damaged_summary_is_computed_anew(run):
    kept = read(run, "summary.json")
    (run / "summary.json").write_text(json.dumps(kept)[:200])
    view = view_run(run)
    assert any("summary.json" in text for text in view.problems)
    assert view.summary["metrics"]["ttft"]["percentiles"] == kept["metrics"]["ttft"]["percentiles"]


def test_a_killed_run_has_a_page_that_says_so(run):
    content = read(run, "run.json")
    del content["end"]
    (run / "run.json").write_text(json.dumps(content))
    (run / "summary.json").unlink()
    view = view_run(run)
    assert any("killed" in text for text in view.warnings)
    assert view.sections


@pytest.mark.parametrize(
    "damage", [{"config": None}, {"facts": 7}, {"environment": "x"}, {"engine": []}, {"command": 5}, {"config": {"scenario": []}}]
)
def test_a_run_json_with_a_field_gone_wrong_gives_a_page_and_no_traceback(run, damage):
    content = read(run, "run.json") | damage
    (run / "run.json").write_text(json.dumps(content))
    ended = bmp("report", str(run))
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert (run / "report.html").stat().st_size > 10_000


def test_a_place_that_cannot_be_written_is_one_line(run, tmp_path):
    with pytest.raises(UserError, match="can't write"):
        write_report(run, out=tmp_path / "missing" / "report.html")


def test_a_page_that_fails_does_not_fail_the_run(tmp_path, capsys):
    assert report_after_run(tmp_path) is None
    said = capsys.readouterr().err
    assert said.startswith("no report.html: ")
    assert said.count("\n") == 1


def test_without_the_extra_one_line_says_how_to_get_it(run, monkeypatch, capsys):
    import bytemlperf.report.page as page

    page.templates.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert report_after_run(run) is None
    said = capsys.readouterr().err
    page.templates.cache_clear()
    assert "pip install 'bytemlperf-llm[report]'" in said
    assert said.count("\n") == 1
