"""`bmp-llm campaign` with real processes: on the reference engine, against a port where nobody listens, and one that dies."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bytemlperf.compare.comparison import compare_all
from bytemlperf.report.gather import view_run
from bytemlperf.runs.kinds import Plot
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.campaign.records import JobRecord
from tests.cli.helpers import bmp, run_folder, start
from tests.runs.reading import read_records

FILE = """\
name: quick
engines:
  - {name: fast, engine: reference, engine_options: {ttft_ms: 5, itl_ms: 1}}
  - {name: broken, base_url: "http://127.0.0.1:9"}
  - {name: slow, engine: reference, engine_options: {ttft_ms: 40, itl_ms: 1}}
scenarios: [smoke]
rates: [50]
repeats: 2
order: shuffled
cool_down_s: 0.1
settings: {num_prompts: 10, num_warmups: 0, report: false}
"""


def loaded(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def records_of(folder: Path) -> list[JobRecord]:
    return list(RunRecords[JobRecord](folder, JobRecord))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("campaign")
    (place / "quick.yaml").write_text(FILE)
    ended = bmp("campaign", "quick.yaml", "--fail-if", "ttft p50 > 100%", "--fail-if", "e2e p50 > 900", cwd=place)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    (place / "printed").write_text(ended.stdout)
    return run_folder(ended.stdout, place)


def test_every_run_is_a_folder_or_a_row_that_says_why_not(quick):
    records = records_of(quick)
    assert sorted(record.key for record in records) == [
        (engine, "smoke", "50 requests/s", repeat) for engine in ("broken", "fast", "slow") for repeat in (1, 2)
    ]
    for record in records:
        if record.engine == "broken":
            assert (record.status, record.run) == ("failed", "")
            assert record.reason.startswith("can't reach 127.0.0.1:9")
        else:
            assert record.status == "ok"
            assert len(list(read_records(quick / record.run))) == 10
    assert loaded(quick, "summary.json")["counts"] == {"ok": 4, "failed": 2, "not run": 0}


def test_every_engine_has_the_same_schedule_and_every_repeat_its_own(quick):
    hashes = {(record.repeat, record.schedule_sha256) for record in records_of(quick) if record.status == "ok"}
    assert sorted(repeat for repeat, _ in hashes) == [1, 2]
    assert len({sha for _, sha in hashes}) == 2


def test_figures_are_the_runs_means(quick):
    rows = {row["engine"]: row for row in loaded(quick, "summary.json")["rows"]}
    runs = [loaded(quick / record.run, "summary.json") for record in records_of(quick) if record.engine == "fast"]
    medians = [run["metrics"]["ttft"]["percentiles"]["50"] / 1e6 for run in runs]
    figure = rows["fast"]["point"]["figures"]["ttft p50"]
    assert figure["value"] == pytest.approx(sum(medians) / 2)
    assert figure["low"] < min(medians) < max(medians) < figure["high"], "Student's interval of two values is wide"
    assert rows["slow"]["point"]["figures"]["ttft p50"]["value"] > 40
    assert (rows["broken"]["verdict"], rows["broken"]["runs"], rows["broken"]["point"]) == ("failed", 0, None)


def test_the_gate_names_what_failed_it(quick):
    summary = loaded(quick, "summary.json")
    gate = summary["gate"]
    assert summary["verdict"] == "partial", "a gate is no fault of the measurement"
    assert gate["conditions"] == ["ttft p50 > 100%", "e2e p50 > 900"]
    assert [text.partition(" (")[0].split(" +")[0] for text in gate["failures"]] == [
        "broken is invalid: smoke · 50 requests/s failed",
        "ttft p50 > 100%: broken: can't be evaluated: there is no baseline to compare with",
        "ttft p50 > 100%: slow: smoke · 50 requests/s TTFT p50",
        "e2e p50 > 900: broken: can't be evaluated: not measured",
    ]


def test_the_folder_is_a_run_folder(quick):
    assert verify_suite(quick).findings == []
    assert (quick / "campaign.json").read_bytes() == (quick / "summary.json").read_bytes()
    copy = Path(shutil.copytree(quick, quick.parents[1] / "copy"))
    run = next(record.run for record in records_of(copy) if record.run)
    (copy / run / "summary.json").unlink()
    assert [text.partition(";")[0] for text in verify_suite(copy).findings] == [f"{run}: there is no summary.json"]
    printed = (quick.parents[1] / "printed").read_text()
    assert "can't reach 127.0.0.1:9" in printed
    assert re.search(r"^50 +fast +2 of 2 ", printed, re.M)
    listed = bmp("summarize", str(quick), cwd=quick.parent)
    assert (listed.returncode, "Gate failed: ttft p50 > 100%; e2e p50 > 900" in listed.stdout) == (1, True)
    page = (quick / "report.html").read_text()
    assert all(name in page for name in ("fast", "slow", "broken", "Gate"))


def test_two_campaigns_are_compared_engine_by_engine_and_drawn_in_one_picture(quick):
    (comparison,) = compare_all([view_run(quick), view_run(quick)], view_run(quick))
    assert {row.key for row in comparison.rows} == {"fast · smoke · 50 requests/s", "slow · smoke · 50 requests/s"}
    drawn = next(section for section in comparison.beside if isinstance(section, Plot) and section.title == "TTFT")
    assert len([trace for trace in drawn.data if "p50" in trace["name"]]) in (0, 4)  # a busy machine's runs may be invalid
    assert next(row for row in comparison.rows if row.metric == "ttft p50").sides[1].ratio == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_campaign_goes_on_where_it_was_stopped_and_does_nothing_twice(number, tmp_path):
    text = FILE.replace('  - {name: broken, base_url: "http://127.0.0.1:9"}\n', "").replace("num_prompts: 10", "num_prompts: 40")
    (tmp_path / "quick.yaml").write_text(text)
    process = start("campaign", "quick.yaml", "--quiet", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (logs := list(tmp_path.glob("runs/*/records.jsonl"))) or not logs[0].stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert psutil.wait_procs(children, timeout=30)[1] == [], "nobody is left behind who goes on measuring"
    folder = logs[0].parent
    before = records_of(folder)
    assert 1 <= len(before) < 4
    if number == signal.SIGINT:
        assert process.returncode == 130, said
        assert f"--resume {folder.relative_to(tmp_path)}" in said
        assert loaded(folder, "summary.json")["verdict"] == "partial"
    ended = bmp("campaign", "quick.yaml", "--quiet", "--resume", str(folder), cwd=tmp_path)
    assert ended.stdout.strip() == str(folder)
    records = records_of(folder)
    assert records[: len(before)] == before
    assert len({record.key for record in records}) == len(records) == 4
    assert loaded(folder, "summary.json")["counts"] == {"ok": 4, "failed": 0, "not run": 0}
    (tmp_path / "other.yaml").write_text(text.replace("ttft_ms: 40", "ttft_ms: 41"))
    other = bmp("campaign", "other.yaml", "--resume", str(folder), cwd=tmp_path)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "is of another campaign" in other.stderr


def test_a_rate_that_auto_finds_is_every_engines(tmp_path):
    text = FILE.replace("rates: [50]", "rates: [auto]").replace("repeats: 2\norder: shuffled\n", "").replace("broken", "third")
    (tmp_path / "quick.yaml").write_text(text.replace('base_url: "http://127.0.0.1:9"', "engine: reference, engine_options: {ttft_ms: 9}"))
    ended = bmp("campaign", "quick.yaml", "--quiet", cwd=tmp_path)
    records = records_of(run_folder(ended.stdout, tmp_path))
    assert [record.found_rate for record in records] == [True, False, False]
    assert len({record.level for record in records}) == len({record.schedule_sha256 for record in records}) == 1
