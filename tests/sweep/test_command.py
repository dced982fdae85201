"""`bmp-llm sweep` on the reference engine: real load, real run folders."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from bytemlperf.catalogue.index import find_runs
from bytemlperf.compare.comparison import compare_all, gather
from bytemlperf.errors import UserError
from bytemlperf.runs.kinds import Plot, Table
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.cli import app
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.points import point
from bytemlperf_llm.run import started
from bytemlperf_llm.sweep import command
from bytemlperf_llm.sweep.axes import axes_of
from bytemlperf_llm.sweep.flags import SweepFlags
from tests.cli.helpers import start

ENGINE = ("--engine", "reference", "--engine-option", "ttft_ms=2", "--engine-option", "itl_ms=1", "--num-warmups", "0", "--no-report")
SHORT = (*ENGINE, "--output-len", "4", "--num-prompts", "20")


@pytest.fixture(autouse=True)
def _no_matter_how_busy_this_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = command.row_of
    monkeypatch.setattr(command, "row_of", lambda *parts: msgspec.structs.replace(made(*parts), verdict="valid"))


def sweep(tmp_path: Path, *words: str) -> tuple[int, Path]:
    result = CliRunner().invoke(app, ["sweep", *words, "--runs-dir", str(tmp_path), "--quiet"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, Path(result.stdout.strip().splitlines()[-1])


def points(folder: Path) -> list[dict[str, Any]]:
    return [point for curve in json.loads((folder / "sweep.json").read_bytes())["curves"] for point in curve["points"]]


def wait_for_sweep(place: Path, timeout_s: float = 60) -> Path:
    """sweep.json, once the first point is in it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if files := list(place.glob("runs/*/sweep.json")):
            return files[0]
        time.sleep(0.05)
    raise AssertionError("no point was measured")


def run_of(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((folder / row["folder"] / "run.json").read_bytes())
    return run


def test_every_point_is_an_ordinary_run_and_all_of_them_a_run_too(tmp_path: Path) -> None:
    status, folder = sweep(tmp_path, *SHORT, "--rates", "40,80", "--input-len", "8,16")
    assert status == 0
    rows = points(folder)
    order = [(row["curve"], row["load"]["rate_rps"]) for row in rows]
    assert order == [(curve, rate) for curve in ("input 8", "input 16") for rate in (40.0, 80.0)]
    runs = [run_of(folder, row) for row in rows]
    assert [run["config"]["scenario"]["arrival"]["rate"] for run in runs] == [40.0, 80.0, 40.0, 80.0]
    assert [run["config"]["scenario"]["prompts"]["synthetic"]["tokens"]["value"] for run in runs] == [8, 8, 16, 16]
    assert len({run["seed"] for run in runs}) == 4  # no prompt comes twice, or a cache would make the later points faster
    summaries = [json.loads((folder / row["folder"] / "summary.json").read_bytes()) for row in rows]
    medians = [summary["metrics"]["ttft"]["percentiles"]["50"] / 1e6 for summary in summaries]
    assert [row["figures"]["ttft p50"]["value"] for row in rows] == medians
    assert verify_suite(folder).findings == []
    assert find_runs(tmp_path)[0] == [folder]


def test_closed_loops_and_an_engine_that_starts_once_for_each_of_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, start_engine = [], started.start

    async def counted(*arguments: Any) -> Any:
        starts.append(arguments[1].engine.options)
        return await start_engine(*arguments)

    monkeypatch.setattr(started, "start", counted)
    _, folder = sweep(tmp_path, *SHORT, "--concurrency", "1,2", "--engine-option", "slots=1,2")
    rows = points(folder)
    order = [(row["curve"], row["load"]["concurrency"]) for row in rows]
    assert order == [(curve, number) for curve in ("slots=1", "slots=2") for number in (1, 2)]
    assert [each["slots"] for each in starts] == ["1", "2"]
    runs = [run_of(folder, row) for row in rows]
    assert {run["config"]["scenario"]["arrival"]["process"] for run in runs} == {"closed"}
    assert [run["config"]["engine_options"]["slots"] for run in runs] == ["1", "1", "2", "2"]


def test_a_point_that_cannot_be_measured_is_a_row_with_its_reason(tmp_path: Path) -> None:
    status, folder = sweep(tmp_path, *SHORT, "--rates", "40", "--engine-option", "slots=1,none")
    first, second = points(folder)
    assert (status, first["state"], second["state"]) == (0, "measured", "skipped")
    assert "slots" in second["why"]
    assert json.loads((folder / "summary.json").read_bytes())["verdict"] == "partial"


def test_a_server_that_dies_leaves_what_is_known_and_the_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lone = point.lone

    async def dies(started: Any, plan: Any, place: int) -> Any:
        record = await lone(started, plan, place)
        record.outcome = "failed" if place > point.LONE_REQUESTS + 1 else record.outcome
        return record

    with monkeypatch.context() as patched:
        patched.setattr(point, "lone", dies)
        status, folder = sweep(tmp_path, *SHORT, "--rates", "40,50,60,70")
    rows = points(folder)
    assert [row["state"] for row in rows] == ["measured", "interrupted", "skipped", "skipped"]
    assert ["no longer responds" in row.get("why", "") for row in rows] == [False, True, True, True]
    assert status == 0  # one point stands

    kept = rows[0]["folder"]
    with pytest.raises(UserError, match="other flags"):
        sweep(tmp_path, *SHORT, "--rates", "40,50,60,70", "--seed", "7", "--resume", str(folder))
    status, again = sweep(tmp_path, *SHORT, "--rates", "40,50,60,70", "--resume", str(folder))
    assert (status, again) == (0, folder)
    assert [row["state"] for row in points(folder)] == ["measured"] * 4
    assert points(folder)[0]["folder"] == kept
    assert verify_suite(folder).findings == []
    with pytest.raises(UserError, match="has every point"):
        sweep(tmp_path, *SHORT, "--rates", "40,50,60,70", "--resume", str(folder))


def test_a_point_of_a_disturbed_client_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = command.row_of
    with monkeypatch.context() as patched:
        late = {"verdict": "client-limited", "why": "the client sent late"}
        patched.setattr(command, "row_of", lambda *parts: msgspec.structs.replace(made(*parts), **late))
        _, folder = sweep(tmp_path, *SHORT, "--rates", "40")
    (disturbed,) = points(folder)
    status, _ = sweep(tmp_path, *SHORT, "--rates", "40", "--resume", str(folder))
    (again,) = points(folder)
    assert (status, disturbed["verdict"], again["verdict"]) == (0, "client-limited", "valid")
    assert again["folder"] != disturbed["folder"]


def test_a_server_that_is_killed_in_mid_sweep(tmp_path: Path) -> None:
    server = start("reference-server", "--port", "0", "--engine-option", "ttft_ms=2", cwd=tmp_path)
    assert server.stdout is not None
    address = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
    words = ("--base-url", address, "--output-len", "4", "--duration", "1", "--rates", "30,40,50", "--num-warmups", "0", "--no-report")
    process = start("sweep", *words, cwd=tmp_path)
    wait_for_sweep(tmp_path)
    server.kill()
    out, err = process.communicate(timeout=60)
    server.wait()
    rows = points(tmp_path / out.strip().splitlines()[-1])
    assert [row["state"] for row in rows] == ["measured", "interrupted", "skipped"], err
    assert rows[1]["why"] == "the server died: it no longer responds"
    assert "resume with --resume" in rows[2]["why"]


def test_a_stop_by_the_user_keeps_what_is_known(tmp_path: Path) -> None:
    words = ("sweep", *ENGINE, "--output-len", "4", "--duration", "1", "--rates", "30,40,50,60")
    process = start(*words, cwd=tmp_path)
    file = wait_for_sweep(tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    folder = tmp_path / out.strip().splitlines()[-1]
    assert (process.returncode, file.parent) == (130, folder), err
    states = [row["state"] for row in points(folder)]
    assert states[0] == "measured"
    assert states[1:] in ([], ["interrupted"])
    assert json.loads((folder / "run.json").read_bytes())["end"]["stopped_by_user"] is True
    assert f"--resume {folder.relative_to(tmp_path)}" in out


def test_two_sweeps_in_one_picture_and_one_table(tmp_path: Path) -> None:
    folders = [sweep(tmp_path, *SHORT, "--rates", "40,80", "--label", label)[1] for label in ("one", "two")]
    views, _ = gather(folders)
    (comparison,) = compare_all(views, views[0])
    plots = {section.title: section for section in comparison.beside if isinstance(section, Plot)}
    assert {"one p50", "two p50"} <= {trace["name"] for trace in plots["TTFT"].data}
    table = next(section for section in comparison.beside if isinstance(section, Table))
    assert [(row[0], row[1]) for row in table.rows] == [("one", 40.0), ("one", 80.0), ("two", 40.0), ("two", 80.0)]
    rows = {(row.key, row.metric): row for row in comparison.rows}
    assert rows["chat, 40 requests/s", "ttft p50"].sides[1].change is not None


@pytest.mark.parametrize("given", [SweepFlags(), SweepFlags(rates="1,2")])
def test_sessions_are_swept_by_users(given: SweepFlags) -> None:
    with pytest.raises(UserError, match="rates are of requests, and scenario 'chat-multiturn' has sessions"):
        command.sweep(Flags(engine="reference", scenario="chat-multiturn"), given, [])


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        ({"rates": "1,x"}, "--rates 'x' is not a number above 0"),
        ({"rates": "0"}, "--rates '0' is not"),
        ({"rates": ","}, "--rates has no value"),
        ({"concurrency": "1.5"}, "--concurrency '1.5'"),
        ({"input_lens": "-3"}, "--input-len '-3'"),
        ({"rates": "1", "concurrency": "1"}, "contradict each other"),
        ({"rates": ",".join(map(str, range(1, 102))), "input_lens": "1,2,3,4,5,6,7,8,9,10"}, "1,010 points, and 300 are the limit"),
    ],
)
def test_bad_axes(flags: dict[str, str], cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        axes_of(SweepFlags(**flags))


def test_nothing_is_left_of_a_sweep_that_cannot_begin(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the first request fails"):
        sweep(tmp_path, *SHORT, "--rates", "1", "--engine-option", "fail_every=1")
    assert not list(tmp_path.iterdir())


def test_the_cross_product_has_a_stated_order_and_secrets_and_json_are_no_axes() -> None:
    axes = axes_of(SweepFlags(engine_options=("a=1,2", 'b={"x":1,"y":2}', "api_key=p,q"), output_lens="5,6"))
    json_option = 'b={"x":1,"y":2}'
    assert [curve.name for curve in axes.curves] == ["a=1, output 5", "a=1, output 6", "a=2, output 5", "a=2, output 6"]
    assert {curve.engine_options[1:] for curve in axes.curves} == {(json_option, "api_key=p,q")}
    assert axes.loads == ()
