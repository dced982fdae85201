"""A command decodes a run's log once: summary, table, page and exports share what was read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bytemlperf.runs import records, suite
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.runs.verify import summarize_any
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.run.bench import serve_bench
from tests.micro.made import run_and_records
from tests.runs.made_run import made_run


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each log that was walked, once for every walk."""
    walked: list[str] = []
    lines_of = records.lines_of

    def counted(path: Path):
        if path.name.startswith("records"):
            walked.append(path.name)
        return lines_of(path)

    monkeypatch.setattr(records, "lines_of", counted)
    return walked


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each JSON file of a run folder, once for every time that it was written."""
    names: list[str] = []
    write_json = suite.write_json

    def counted(path: Path, content: object) -> None:
        names.append(path.name)
        write_json(path, content)

    monkeypatch.setattr(suite, "write_json", counted)
    return names


def test_a_run_with_every_export_and_a_page(
    tmp_path: Path, decoded: list[str], written: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("ttft_ms=1", "itl_ms=1")
    flags = Flags(engine="reference", scenario="smoke", engine_options=options, num_prompts=5, request_rate="100", num_warmups=0)
    serve_bench(resolve(flags.changed(runs_dir=tmp_path, csv=True, save_result=True, save_detailed=True)), ["bmp-llm"])
    assert decoded == ["records.jsonl"]
    assert written == ["run.json", "run.json", "summary.json"], "run.json at the start, and at the end"
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert {"report.html", "records.csv", "vllm-bench.json", "summary.json"} <= {path.name for path in folder.iterdir()}
    assert len((folder / "records.csv").read_text().splitlines()) == 6


def test_a_summary_made_again(tmp_path: Path, decoded: list[str]):
    folder = made_run(tmp_path / "run")
    decoded.clear()
    assert summarize_any(folder) == 0
    assert decoded == ["records.jsonl"]


def test_a_run_of_another_suite(tmp_path: Path, decoded: list[str]):
    made, rows = run_and_records()
    with SuiteRun.begin(tmp_path, "micro", "made", made["config"], command=["bmp"], seed=0, more={"peaks": made["peaks"]}) as run:
        for row in rows:
            run.append(row)
    assert (run.folder / "report.html").exists()
    assert decoded == ["records.jsonl"]
