"""`bmp runs`: the folders are the truth, the index can go at any time; filters, tags, exports, bad input."""

from __future__ import annotations

import csv
import json
import os

import pytest

from bytemlperf.catalogue.index import FILE, Catalogue
from bytemlperf.catalogue.tags import read_tags
from bytemlperf.runs.suite import verify_suite
from tests.report.inside import bmp
from tests.report.made import HOSTILE, llm_run, read
from tests.runs.made_run import made_run


@pytest.fixture
def place(tmp_path):
    runs = tmp_path / "runs"
    llm_run(runs / "a", 120, label="fast")
    llm_run(runs / "b", 120, label="slow", slower=2.0, started_at="2026-11-25T08:00:00.000+00:00")
    llm_run(runs / "group" / "c", 60, label="inner", scenario="code", started_at="2026-11-20T08:00:00.000+00:00")
    return runs


def rows_of(place, *words):
    out = place.parent / "out.json"
    ended = bmp("runs", "export", str(out), "--runs-dir", str(place), *words)
    assert ended.returncode == 0, ended.stderr
    return json.loads(out.read_text())


def test_runs_are_listed_with_the_newest_first_and_their_figures(place):
    rows = rows_of(place)
    assert [row["label"] for row in rows] == ["slow", "fast", "inner"]
    value = read(place / "a", "summary.json")["metrics"]["ttft"]["percentiles"]["50"] / 1e6
    (fast,) = rows_of(place, "--metric", "ttft p50", "--where", "label = 'fast'")
    assert fast["ttft p50"] == value
    assert fast["verdict"] == "valid"
    assert fast["subject"] == "reference"
    assert "TTFT p50" in fast["headlines"]


def test_filters_sort_and_limit(place):
    assert [row["label"] for row in rows_of(place, "--metric", "tpot p50", "--sort", "tpot p50", "--where", '"tpot p50" > 0')][-1] == "slow"
    assert [row["label"] for row in rows_of(place, "--sort=-label", "--limit", "1")] == ["slow"]
    assert rows_of(place, "--kind", "micro") == []
    bmp("runs", "tag", str(place / "group" / "c"), "x")
    assert [row["label"] for row in rows_of(place, "--tag", "x", "--limit", "1")] == ["inner"], "the limit counts what the filter left"


def test_tags_live_in_the_folder_and_leave_the_run_whole(tmp_path):
    run = made_run(tmp_path / "run")
    ended = bmp("runs", "tag", str(run), "baseline", "h100")
    assert ended.returncode == 0
    assert "baseline, h100" in ended.stdout
    bmp("runs", "tag", str(run), "--remove", "h100")
    assert read_tags(run) == ["baseline"]
    assert verify_suite(run).findings == [], "a tag is no change of the run"


def test_the_index_is_no_copy_that_counts(place):
    before = rows_of(place, "--metric", "ttft p50")
    bmp("runs", "tag", str(place / "a"), "kept")
    (place / FILE).unlink()
    after = rows_of(place, "--metric", "ttft p50")
    assert [row["ttft p50"] for row in after] == [row["ttft p50"] for row in before]
    assert [row["tags"] for row in after] == [[], ["kept"], []]
    (place / FILE).write_bytes(b"not a database at all" * 100)
    assert rows_of(place, "--metric", "ttft p50") == after
    assert "3 runs read" in bmp("runs", "index", "--runs-dir", str(place), "--rebuild").stdout


def test_only_what_changed_is_read_again(place):
    with Catalogue(place) as catalogue:
        assert catalogue.update()[:3] == (3, 0, 0)
        assert catalogue.update()[:3] == (0, 3, 0)
        summary = read(place / "a", "summary.json") | {"verdict": "invalid"}
        (place / "a" / "summary.json").write_text(json.dumps(summary))
        assert catalogue.update()[:3] == (1, 2, 0)
        (place / "b" / "run.json").unlink()
        assert catalogue.update()[:3] == (0, 2, 1)
        assert catalogue.ask("SELECT verdict FROM runs WHERE label = 'fast'")[1] == [("invalid",)]
        assert catalogue.ask("SELECT count(*) FROM figures WHERE folder = 'b'")[1] == [(0,)]


def test_another_process_that_holds_the_index_is_no_obstacle(place):
    import subprocess
    import sys

    with Catalogue(place) as catalogue:
        catalogue.update()
        catalogue.connection.execute("BEGIN EXCLUSIVE")
        command = [sys.executable, "-c", "from bytemlperf.app import main; main()", "runs", "--runs-dir", str(place)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "built in memory" in " ".join(ended.stdout.split())
    assert "fast" in ended.stdout


def test_what_is_wrong_is_named_and_the_rest_listed(place):
    (place / "a" / "run.json").write_text(json.dumps(read(place / "a", "run.json") | {"format_version": 99}))
    (place / "b" / "run.json").write_text("{")
    (place / "stranger").mkdir()
    ended = bmp("runs", "--runs-dir", str(place))
    assert ended.returncode == 0
    assert "format version 99" in ended.stdout
    assert "can't be read" in ended.stdout
    assert "no runs: stranger" in ended.stdout
    assert "inner" in ended.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--where", "nonsense ="),
        ("--where", "1=1); DROP TABLE runs; --"),
        ("--sort", "no such column"),
        ("--where", '"tftt p50" < 200'),
        ("query", "ATTACH '/tmp/other.sqlite' AS other"),
        ("query", "PRAGMA user_version = 1"),
        ("query", "SELECT load_extension('x')"),
        ("--runs-dir", "/nowhere/at/all"),
        ("query", "DROP TABLE runs"),
        ("query", "SELECT 1; SELECT 2"),
        ("query", "SELECT * FROM read_csv('/etc/passwd')"),
        ("query", "COPY runs TO '/tmp/out.csv'"),
        ("export", "file.xlsx"),
        ("tag", "/nowhere/at/all", "x"),
    ],
)
def test_bad_input_is_one_line_and_status_2(place, words):
    where = [] if "--runs-dir" in words or "tag" in words else ["--runs-dir", str(place)]
    ended = bmp("runs", *words, *where)
    assert ended.returncode == 2, ended.stdout
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


def test_a_name_of_ones_own_may_be_quoted(place):
    ended = bmp(
        "runs",
        "query",
        """SELECT count(*) AS "how many" FROM runs WHERE label <> '"no" column' ORDER BY "how many" """,
        "--runs-dir",
        str(place),
    )
    assert ended.returncode == 0, ended.stderr
    assert "how many" in ended.stdout


def test_values_that_sqlite_cannot_hold_lose_no_run(place):
    (place / "a" / "run.json").write_text(json.dumps(read(place / "a", "run.json") | {"seed": 2**70, "label": "half \ud800 a pair"}))
    assert len(rows_of(place)) == 3


def test_an_index_that_is_damaged_inside_is_no_obstacle(place):
    rows_of(place)
    content = bytearray((place / FILE).read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    (place / FILE).write_bytes(content)
    for note in (True, False):
        listed = bmp("runs", "--runs-dir", str(place)).stdout
        assert ("fast" in listed, "built in memory" in listed) == (True, note)


def test_a_tag_that_is_none_is_refused(place):
    assert bmp("runs", "tag", str(place / "a"), "two words").returncode == 2
    (place / "a" / "tags.json").write_text('{"not": "a list"}')
    assert read_tags(place / "a") == []


def test_a_cell_of_a_csv_never_is_a_formula(tmp_path):
    runs = tmp_path / "runs"
    llm_run(runs / "evil", 60, label="=HYPERLINK(1)", engine={"name": "@SUM(1)", "model": "+1"})
    out = tmp_path / "out.csv"
    assert bmp("runs", "export", str(out), "--runs-dir", str(runs)).returncode == 0
    (row,) = list(csv.DictReader(out.open()))
    assert (row["label"], row["subject"], row["model"]) == ("'=HYPERLINK(1)", "'@SUM(1)", "'+1")


def test_figures_are_exported_as_parquet(place, tmp_path):
    polars = pytest.importorskip("polars")
    out = tmp_path / "figures.parquet"
    assert bmp("runs", "export", str(out), "--runs-dir", str(place), "--figures", "--where", "label = 'fast'").returncode == 0
    frame = polars.read_parquet(out)
    assert set(frame["folder"]) == {"a"}
    assert frame.filter(polars.col("metric") == "ttft p50")["unit"].to_list() == ["ms"]


def test_hostile_labels_do_not_act_in_a_terminal(tmp_path):
    runs = tmp_path / "runs"
    llm_run(runs / "evil", 60, label=" ".join(HOSTILE))
    ended = bmp("runs", "--runs-dir", str(runs))
    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout
    assert "\u202e" not in ended.stdout


def test_a_directory_that_cannot_be_written_is_read(place):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    place.chmod(0o500)
    assert "fast" in bmp("runs", "--runs-dir", str(place)).stdout
    place.chmod(0o700)
