"""`bmp-llm capacity` on the reference engine, in this process: real load, real run folders."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from bytemlperf.app import app as bmp
from bytemlperf.errors import UserError
from bytemlperf.report.write import write_report
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.capacity import probing
from bytemlperf_llm.capacity.result import Capacity
from bytemlperf_llm.cli import app
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.points import point
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.started import Started

SERVICE = ("--engine-option", "ttft_ms=1", "--engine-option", "itl_ms=0.2", "--engine-option", "slots=2", "--output-len", "8")
SEARCH = ("--engine", "reference", *SERVICE, "--goodput", "ttft:150", "e2el:200", "--share", "0.8", "--request-rate", "200", "--no-report")


def capacity(tmp_path: Path, *more: str) -> tuple[int, Path]:
    result = CliRunner().invoke(app, ["capacity", *SEARCH, "--runs-dir", str(tmp_path), *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, Path(result.stdout.strip().splitlines()[-1])


def answer(folder: Path) -> Capacity:
    return msgspec.json.decode((folder / "capacity.json").read_bytes(), type=Capacity)


@pytest.fixture(autouse=True)
def _no_matter_how_busy_this_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "CLIENTS", ())


def test_a_search_ends_in_an_interval_of_ordinary_runs_and_goes_on(tmp_path: Path) -> None:
    status, folder = capacity(tmp_path, "--max-requests", "2400", "--quiet")
    found = answer(folder)
    assert status == (0 if found.holds_at_rps else 1)
    assert found.holds_at_rps is None or found.fails_at_rps is None or found.holds_at_rps < found.fails_at_rps
    assert found.stopped_because in ("within", "requests")
    assert found.requests <= 2_400
    assert not verify_suite(folder).findings
    assert {row.folder for row in found.probes} == {path.name for path in folder.iterdir() if path.is_dir()}
    for row in found.probes:
        run = json.loads((folder / row.folder / "run.json").read_bytes())
        assert run["config"]["scenario"]["arrival"]["rate"] == row.load
        assert row.judged <= row.requests <= run["scheduled_requests"]
        assert not verify_suite(folder / row.folder).findings
    seeds = [json.loads((folder / row.folder / "run.json").read_bytes())["seed"] for row in found.probes]
    assert len(set(seeds)) == len(seeds)

    capacity(tmp_path, "--max-requests", "3000", "--quiet", "--resume", str(folder))
    after = answer(folder)
    assert after.probes[: len(found.probes)] == found.probes
    assert after.requests <= 3_000
    with pytest.raises(UserError, match="other flags"):
        capacity(tmp_path, "--max-requests", "3000", "--resume", str(folder), "--input-len", "9")


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (("--share", "0.9999", "--max-requests", "20000"), "needs at least .* requests a probe, .* in all, and --max-requests is 20,000"),
        (("--share", "1"), "no number of requests"),
        (("--within", "wide"), "is not a width"),
        (("--goodput", "ttft:0.5"), "even a lone request misses ttft:0.5: .* ms at best"),
        (("--engine-option", "fail_every=1"), "the first request fails"),
        (("--by", "sessions"), "--request-rate is no load of --by sessions"),
        (("--by", "concurrency"), "--request-rate is no load of --by concurrency"),
        (("--max-concurrency", "4"), "--max-concurrency is no load of --by rate"),
        (("--dataset-name", "azure", "--share", "0.99"), "the data set has .* requests, and a probe needs"),
        (("--price-per-hour", "cheap"), "is not a price"),
    ],
)
def test_what_cannot_be_answered_is_said_before_it_starts(tmp_path: Path, flags: tuple[str, ...], cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        capacity(tmp_path, *flags)
    assert not list(tmp_path.iterdir())


def plain_page(folder: Path) -> str:
    return write_report(folder, "md").read_text()


def test_the_folder_is_a_run_with_a_page_of_its_own(tmp_path: Path) -> None:
    _, folder = capacity(tmp_path, "--max-requests", "2400", "--quiet", "--price-per-hour", "3.60 USD", "--report")
    found, page = answer(folder), (folder / "report.html").read_text()
    assert "Share of requests within the service levels" in page
    assert all(row.folder in page for row in found.probes)
    held = found.confirmed or next(row for row in found.probes if row.load == found.holds_at)
    assert found.cost is not None
    assert held.rates.output_tokens_per_s is not None
    assert found.cost.price_per_million_output_tokens == pytest.approx(1000 / held.rates.output_tokens_per_s)
    assert "at 3.6 an hour" in plain_page(folder)
    listed = CliRunner().invoke(bmp, ["runs", "--runs-dir", str(tmp_path)])
    assert listed.exit_code == 0
    assert listed.stdout.count("capacity") >= 1
    compared = CliRunner().invoke(bmp, ["compare", str(folder), str(folder)])
    assert compared.exit_code == 0


def test_an_interrupted_probe_is_listed_and_the_search_goes_on_with_other_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = probing.ProbeRun._is_enough

    def interrupt(self: probing.ProbeRun) -> bool:
        if self._run.folder.name.split("-llm-")[1].startswith("01-"):
            signal.raise_signal(signal.SIGINT)
        return enough(self)

    with monkeypatch.context() as patch:
        patch.setattr(probing.ProbeRun, "_is_enough", interrupt)
        status, folder = capacity(tmp_path, "--max-requests", "2400", "--quiet")
    found = answer(folder)
    assert (status, found.stopped_because) == (130, "interrupted")
    assert [row.unjudged for row in found.probes] == ["", "interrupted"]
    assert (folder / found.probes[1].folder / "summary.json").exists()
    capacity(tmp_path, "--max-requests", "2400", "--quiet", "--resume", str(folder))
    after = answer(folder)
    assert after.probes[:2] == found.probes
    assert after.stopped_because != "interrupted"
    seeds = [json.loads((folder / row.folder / "run.json").read_bytes())["seed"] for row in after.probes]
    assert len(set(seeds)) == len(seeds) > 2


def test_the_highest_concurrency_that_holds_is_a_whole_number(tmp_path: Path) -> None:
    """Two slots, 2.4 ms a request: with n in flight each takes n · 1.2 ms, so some 16 meet 20 ms, and 64 do not."""
    words = ["capacity", "--engine", "reference", *SERVICE, "--goodput", "e2el:20", "--share", "0.8", "--no-report", "--quiet"]
    more = ["--by", "concurrency", "--max-concurrency", "4", "--max-requests", "8000", "--runs-dir", str(tmp_path)]
    result = CliRunner().invoke(app, [*words, *more])
    found = answer(Path(result.stdout.strip().splitlines()[-1]))
    assert result.exit_code == 0
    assert found.holds_at_rps is None
    assert found.holds_at_concurrency is not None
    assert 1 <= found.holds_at_concurrency <= 40
    assert found.fails_at_concurrency is None or found.holds_at_concurrency < found.fails_at_concurrency
    for row in found.probes:
        run = json.loads((tmp_path / next(tmp_path.iterdir()) / row.folder / "run.json").read_bytes())
        arrival = run["config"]["scenario"]["arrival"]
        assert (arrival["process"], arrival["max_concurrency"]) == ("closed", row.load)
    assert "in flight" in plain_page(next(tmp_path.iterdir()))


def test_the_highest_number_of_users_that_holds_is_found_by_whole_sessions_or_by_turns(tmp_path: Path) -> None:
    """Two slots, 2.4 ms a turn and a think time of 10 ms: four users and less hardly wait, and a hundred for 120 ms."""
    scenario = tmp_path / "users.yaml"
    made = {"turns": {"distribution": "uniform", "min": 2, "max": 4}, "words": {"distribution": "constant", "value": 9}}
    keys = {"name": "users", "description": "short sessions", "output_tokens": {"distribution": "constant", "value": 8}, "num_sessions": 9}
    prompts = {"sessions": {"synthetic": made, "think_ms": {"distribution": "constant", "value": 10}}}
    scenario.write_text(json.dumps(keys | {"prompts": prompts, "arrival": {"process": "closed", "max_concurrency": 2}}))
    for judged, level in (("turns", "e2el:40"), ("sessions", "session:150")):
        runs = tmp_path / judged
        words = ["capacity", "--engine", "reference", *SERVICE, "--scenario", str(scenario), "--by", "sessions", "--goodput", level]
        more = ["--share", "0.8", "--confidence", "0.8", "--max-requests", "4000", "--no-report", "--quiet", "--runs-dir", str(runs)]
        result = CliRunner().invoke(app, [*words, *more])
        assert result.exit_code == 0, result.output
        folder = next(runs.iterdir())
        found = answer(folder)
        assert (found.by, found.judged, found.holds_at_rps, found.holds_at_concurrency) == ("sessions", judged, None, None)
        assert found.holds_at_users is not None
        assert 2 <= found.holds_at_users <= 60
        assert found.fails_at_users is None or found.holds_at_users < found.fails_at_users
        assert "users" in plain_page(folder)
        assert not verify_suite(folder).findings
        for row in found.probes:
            summary = json.loads((folder / row.folder / "summary.json").read_bytes())
            assert not verify_suite(folder / row.folder).findings
            assert summary["sessions"]["outcomes"]["cut"] == 0
            assert summary["scheduled"] == sum(summary["outcomes"].values())
            assert row.judged <= row.requests <= (summary["scheduled"] if judged == "turns" else summary["sessions"]["sessions"])


def test_a_trace_at_its_own_times_is_a_load_too(tmp_path: Path) -> None:
    words = ["capacity", "--engine", "reference", *SERVICE, "--goodput", "e2el:60", "--share", "0.7", "--no-report", "--quiet"]
    more = ["--dataset-name", "azure", "--max-model-len", "4000", "--on-too-long", "truncate", "--confirm", "0"]
    result = CliRunner().invoke(app, [*words, *more, "--confidence", "0.6", "--max-requests", "2000", "--runs-dir", str(tmp_path)])
    assert result.exit_code in (0, 1), result.output
    folder = next(tmp_path.iterdir())
    runs = [json.loads((folder / row.folder / "run.json").read_bytes()) for row in answer(folder).probes]
    assert {run["config"]["scenario"]["arrival"]["process"] for run in runs} == {"trace"}
    assert len({run["config"]["scenario"]["prompts"]["trace"]["time_scale"] for run in runs}) > 1


def test_a_server_that_dies_ends_the_search_with_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = point.lone

    async def dies(started: Started, plan: Plan, place: int) -> RequestRecord:
        record = await answers(started, plan, place)
        return msgspec.structs.replace(record, outcome="failed") if place > point.LONE_REQUESTS + 1 else record

    monkeypatch.setattr(point, "lone", dies)
    status, folder = capacity(tmp_path, "--max-requests", "2400", "--quiet")
    found = answer(folder)
    assert (status, found.stopped_because) == (1 if found.holds_at_rps is None else 0, "server")
    assert [row.unjudged for row in found.probes] == ["", "server"]  # the one during which it died is listed, and not judged
    assert "--resume" in plain_page(folder)
    monkeypatch.setattr(point, "lone", answers)
    capacity(tmp_path, "--max-requests", "2400", "--quiet", "--resume", str(folder))
    after = answer(folder)
    assert after.probes[:2] == found.probes
    assert len(after.probes) > 2
    assert after.stopped_because in ("within", "requests")
