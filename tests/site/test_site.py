"""What the site is made of: rows, normalisation, devices, links, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.hardware.card import Card
from bytemlperf.hardware.measured import assigned_to, assignments_of, device_of
from bytemlperf.runs.kinds import Figure, run_kind
from bytemlperf.site.build import MARK, build_site
from bytemlperf.site.gather import BoardRow, board, find_runs, read_runs
from bytemlperf.site.views import board_table
from bytemlperf_llm.campaign.records import JobRecord
from bytemlperf_llm.capacity.judge import Outcome
from bytemlperf_llm.capacity.result import ProbeRow, Question
from bytemlperf_llm.capacity.search import Goal, Purpose
from bytemlperf_llm.sweep.row import row_of
from engines.loaded_weights import dtype_text
from tests.report.made import HOSTILE, llm_run, llm_run_json, read, write_run
from tests.submit.made import general_run

KNOWN = cards.load()


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("href", "src")]


def runs_of(folder: Path) -> Path:
    """Three closed-loop LLM runs of two speeds, one of them invalid, and a general run."""
    llm_run(folder / "a-fast", label="fast", in_flight=8)
    llm_run(folder / "b-slow", label="slow", slower=2.0, in_flight=8, started_at="2026-11-25T12:00:00.000+00:00")
    llm_run(
        folder / "c-broken",
        label="broken",
        in_flight=8,
        end={"issued_requests": 0, "stopped_by_user": False, "failure": "engine died", "duration_ns": 10**10},
    )
    general_run(folder, ["bert", "resnet50"])
    return folder


def rows_of(folder: Path, known: Mapping[str, Card] = KNOWN, assigned: Sequence[str] = (), currency: str = "USD") -> list[BoardRow]:
    runs, unread = read_runs(find_runs([folder]), known, assignments_of(assigned, known))
    assert unread == []
    return board(runs, currency)


def ranks(rows: Sequence[BoardRow]) -> dict[str, int | None]:
    return {row.run.view.label: row.rank for row in rows if row.run.view.kind == "llm"}


def test_a_row_is_a_run_with_its_figures(tmp_path: Path):
    rows = [row for row in rows_of(runs_of(tmp_path)) if row.run.view.kind == "llm"]
    assert len(rows) == 3
    assert {"ttft p50", "tpot p50", "output_token_throughput"} <= set(rows[0].figures)
    models = [(row.model, row.subject, row.key) for row in rows_of(tmp_path) if row.run.view.kind == "general"]
    assert models == [(model, "onnxruntime", "fp32 | batch 1, closed") for model in ("bert", "resnet50")]


def test_closed_loops_of_one_concurrency_are_ranked_among_valid_runs_only(tmp_path: Path):
    rows = rows_of(runs_of(tmp_path))
    assert {row.ranked.metric for row in rows if row.run.view.kind == "llm"} == {"output_token_throughput"}
    assert ranks(rows)["broken"] is None
    assert {ranks(rows)[name] for name in ("fast", "slow")} == {1}, "the same rate, whatever their latency"


@pytest.mark.parametrize(("spans", "expected"), [
    (((10, 9, 11), (12, 11.5, 13), (10.5, 9.5, 11.2)), (2, 1, 2)),
    (((10, 9, 11), (11.5, 10.5, 12.5), (12.5, 11.8, 13)), (2, 1, 1)),
    (((10, None, None), (10, None, None), (9, None, None)), (1, 1, 3)),
])  # fmt: skip
def test_a_rank_is_shared_within_intervals(tmp_path: Path, spans: Sequence[tuple[float, float | None, float | None]], expected: tuple):
    for place in range(len(spans)):
        llm_run(tmp_path / str(place), 60, label=str(place), in_flight=8)
    runs, _ = read_runs(find_runs([tmp_path]), KNOWN, [])
    for run in runs:
        run.view.summary["verdict"] = "valid"
        value, low, high = spans[int(run.view.label)]
        run.view.figures = [Figure(key="k", metric="m", unit="x/s", better="higher", headline=True, value=value, low=low, high=high)]
    found = ranks(board(runs, "USD"))
    assert tuple(found[str(place)] for place in range(len(spans))) == expected


def test_a_run_with_very_many_metrics_keeps_the_table_a_table(tmp_path: Path):
    llm_run(tmp_path / "a", 60, label="a", in_flight=8)
    (run,), _ = read_runs(find_runs([tmp_path]), KNOWN, [])
    run.view.figures = [Figure(key="k", metric=f"m{place}", unit="", better="higher", value=1.0) for place in range(5000)]
    assert len(board_table(board([run], "USD"), "USD", "").columns) < 50


def test_other_concurrency_is_another_case(tmp_path: Path):
    for in_flight in (4, 8):
        llm_run(tmp_path / str(in_flight), label=str(in_flight), in_flight=in_flight)
    rows = rows_of(tmp_path)
    assert {row.load: row.rank for row in rows} == {"closed loop, 4 in flight": 1, "closed loop, 8 in flight": 1}


def test_open_loop_runs_are_never_ranked(tmp_path: Path):
    for rate in (40.0, 80.0):
        llm_run(tmp_path / f"{rate:g}", label=f"{rate:g}", rate=rate)
    rows = rows_of(tmp_path, assigned=["*=gaudi3"])
    assert {row.run.view.verdict for row in rows} == {"valid"}
    assert {(row.rank, row.per_watt, row.per_currency) for row in rows} == {(None, None, None)}
    table = board_table(rows, "USD", "")
    assert "rank" not in [column.title for column in table.columns]
    assert any("Open-loop runs" in note for note in table.notes)
    build_site([tmp_path], tmp_path / "site", assigned=["*=gaudi3"])
    assert "throughput" not in (tmp_path / "site/compare.html").read_text().partition("compare-data")[2]


def capacity_run(folder: Path, holds: float, fails: float | None, slo_ms: float = 500.0, card: str = "h100") -> Path:
    """A search that ended with these two loads resolved."""
    question = Question(goal=Goal(), slo_ms={"ttft": slo_ms}, first_load=1.0)
    run = llm_run_json(folder.name, kind="capacity")
    run["config"] = {"flags": {"scenario": "chat", "device": card, "input_len": 512}, "search": msgspec.to_builtins(question)}
    run["engine"] |= {"name": "openai", "device": "remote", "remote": True}
    run["end"] |= {"stopped_because": "within"}

    def probe(load: float, outcome: Outcome) -> ProbeRow:
        look = {"requests": 400, "judged": 400, "missed": 0.01, "worth": 400.0, "steady": True, "overloaded": False}
        return ProbeRow(outcome=outcome, folder=f"{load:g}", load=load, purpose=Purpose.LOW, met={"ttft": 0.99}, **look)

    ends = [(holds, Outcome.HOLDS), *([(fails, Outcome.FAILS)] if fails else [])]
    return write_run(folder, run, [probe(load, outcome) for load, outcome in ends])


def test_servers_are_ranked_by_their_capacity_and_its_interval(tmp_path: Path):
    for name, holds, fails in (("first", 20, 21), ("also", 19, 20.5), ("third", 10, 11), ("open-ended", 5, None)):
        capacity_run(tmp_path / name, holds, fails)
    capacity_run(tmp_path / "stricter", 2, 3, slo_ms=100.0)
    rows = rows_of(tmp_path)
    found = {row.run.view.label: row.rank for row in rows}
    assert found == {"first": 1, "also": 1, "third": 3, "open-ended": None, "stricter": 1}
    assert {(row.load, row.ranked and row.ranked.unit) for row in rows} == {
        ("95 % within ttft:500 ms, 512 tokens in", "requests/s"),
        ("95 % within ttft:500 ms, 512 tokens in", None),
        ("95 % within ttft:100 ms, 512 tokens in", "requests/s"),
    }
    first = next(row for row in rows if row.run.view.label == "first")
    assert (first.run.device.card_id, first.per_watt) == ("nvidia-h100-sxm5", pytest.approx(20 / 700)), "as stated"
    build_site([tmp_path], tmp_path / "site")
    assert "19 – 20.50" in (tmp_path / "site/leaderboard-capacity.html").read_text()


def test_sweeps_are_ranked_at_each_concurrency(tmp_path: Path):
    for name, rates in (("quick", (100.0, 180.0)), ("slow", (50.0, 90.0))):
        points = [
            llm_run(tmp_path / name / f"{flight}", 200, in_flight=flight, rate=rate) for flight, rate in zip((4, 8), rates, strict=True)
        ]
        rows = [row_of("", point.name, *(read(point, file) for file in ("run.json", "summary.json")), ()) for point in points]
        run = llm_run_json(name, kind="sweep")
        run["config"] = {"flags": {"scenario": "chat"}, "axes": {"concurrency": "4,8"}}
        write_run(tmp_path / f"{name}-sweep", run, rows)
        for point in points:
            point.rename(tmp_path / f"{name}-sweep" / point.name)
    rows = [row for row in rows_of(tmp_path) if "concurrent" in row.key]
    assert {(row.run.view.label, row.key): row.rank for row in rows} == {
        (name, f"chat, {flight} concurrent"): rank for name, rank in (("quick", 1), ("slow", 2)) for flight in (4, 8)
    }
    assert {row.load for row in rows} == {"closed loop, 4 in flight", "closed loop, 8 in flight"}
    assert {row.ranked.metric for row in rows} == {"output_token_throughput"}


def test_backends_and_providers_are_ranked_against_each_other():
    throughput = Figure(key="bert/openvino/fp32 | batch 1, closed", metric="throughput", unit="samples/s", value=1.0)
    assert run_kind("general").case_of(throughput) == ("openvino", "fp32 | batch 1, closed")
    latency = Figure(key="gemm(K=1 dtype=float32) [torch]", metric="latency", unit="us", value=1.0)
    assert run_kind("micro").case_of(latency) == ("torch", "gemm(K=1 dtype=float32)")


def test_engines_of_a_campaign_are_ranked_against_each_other(tmp_path: Path):
    def job(engine: str, load: str, offered: bool, value: float) -> JobRecord:
        about = {"unit": "tokens/s", "better": "higher", "low": value - 1, "high": value + 1, "load": load, "offered": offered}
        figure = Figure(key="chat", metric="output_token_throughput", label="output token throughput", value=value, **about)
        return JobRecord(engine=engine, scenario="chat", load=load, repeat=1, verdict="valid", figures=[figure])

    jobs = [job(engine, "8 concurrent", False, value) for engine, value in (("vllm", 100), ("sglang", 90), ("openvino", 101))]
    jobs += [job("vllm", "4 requests/s", True, 50)]
    run = llm_run_json("three", kind="campaign")
    run["config"] = {"jobs": [list(job.key) for job in jobs]}
    write_run(tmp_path / "three", run, jobs)
    rows = rows_of(tmp_path)
    assert {(row.subject, row.key): row.rank for row in rows} == {
        ("vllm", "chat · 8 concurrent"): 1,
        ("openvino", "chat · 8 concurrent"): 1,
        ("sglang", "chat · 8 concurrent"): 3,
        ("vllm", "chat · 4 requests/s"): None,
    }
    table = board_table(rows, "USD", "")
    assert [column.title for column in table.columns if "throughput" in column.title] == ["output token throughput, tokens/s"]


def test_runs_inside_a_campaign_are_ranked_beside_others_and_points_of_a_sweep_are_not(tmp_path: Path):
    llm_run(tmp_path / "alone", in_flight=8)
    for kind in ("campaign", "sweep"):
        run = llm_run_json(kind, kind=kind)
        run["config"] = {"jobs": []}
        write_run(tmp_path / kind, run, [])
        llm_run(tmp_path / kind / f"inside-{kind}", in_flight=8)
    names = [path.name for path in find_runs([tmp_path])]
    assert sorted(names) == ["alone", "campaign", "inside-campaign", "sweep"]
    ranked = [row for row in rows_of(tmp_path) if row.rank is not None]
    assert {row.run.view.folder.name for row in ranked} == {"alone", "inside-campaign"}


def test_normalised_figures_are_value_over_price_and_watts_of_all_devices(tmp_path: Path):
    llm_run(tmp_path / "runs/a", label="one", in_flight=8)
    (tmp_path / "prices.yaml").write_text("prices:\n  gaudi3: {amount: 3.0, currency: USD, basis: hour, date: 2026-10}\n")
    known = cards.load(tmp_path / "prices.yaml")
    (row,) = rows_of(tmp_path / "runs", known, ["on*=gaudi3*8"])
    rate = row.figures["output_token_throughput"].value
    assert row.per_currency == pytest.approx(rate / (8 * 15.625))
    assert row.per_watt == pytest.approx(rate / (8 * 900))
    assert row.per_rent == pytest.approx(rate * 3600 / (8 * 3.0))
    (row,) = rows_of(tmp_path / "runs", known, ["on*=gaudi3*8"], "EUR")
    assert row.per_currency is None, "no currency is converted"


def test_quantised_weights_are_another_model_and_not_ranked_with_it(tmp_path: Path):
    dtypes = {"plain": "bfloat16", "small": dtype_text("Q4_1/Q8_0", "bfloat16")}
    for name, dtype in dtypes.items():
        run = llm_run(tmp_path / name, label=name, in_flight=8)
        content = json.loads((run / "run.json").read_text())
        content["engine"]["dtype"] = dtype
        (run / "run.json").write_text(json.dumps(content))
    assert {(row.model, row.rank) for row in rows_of(tmp_path)} == {("tiny", 1), ("tiny, Q4_1/Q8_0 weights", 1)}


def test_a_figure_of_one_device_is_divided_by_one(tmp_path: Path):
    llm_run(tmp_path / "a", label="one", in_flight=8)
    (run,), _ = read_runs(find_runs([tmp_path]), KNOWN, assignments_of(["*=gaudi3*8"], KNOWN))
    watts = []
    for metric in ("tflops_per_device", "tflops"):
        run.view.figures = [Figure(key="k", metric=metric, unit="TFLOP/s", value=90.0, better="higher", headline=True)]
        watts += [row.per_watt for row in board([run], "USD")]
    assert watts == [90 / 900, 90 / 7200]


CPU = {
    "model": "AMD EPYC 9654 96-Core Processor",
    "sockets": 2,
    "logical_cores": 384,
    "usable_cores": 384,
    "virtual": False,
    "quota_cores": None,
}


@pytest.mark.parametrize(
    ("hardware", "name", "used"),
    [
        ({"gpus": [{"name": "Tesla T4"}]}, "NVIDIA T4", 1),
        ({"gpus": [{"name": "Tesla T4"}] * 4}, "NVIDIA T4", None),
        ({"gpus": [], "cpu": CPU}, "AMD EPYC 9654", 2),
        ({"gpus": [], "cpu": CPU | {"virtual": True}}, "AMD EPYC 9654", None),
        ({"gpus": [], "cpu": CPU | {"usable_cores": 8}}, "AMD EPYC 9654", None),
        ({"gpus": [], "cpu": CPU | {"sockets": None}}, "AMD EPYC 9654", None),
        ({"gpus": [], "cpu": {"model": "some CPU", "usable_cores": 2}}, "some CPU, 2 cores", None),
        ({"gpus": "torn"}, "unknown", None),
        ({}, "unknown", None),
    ],
)
def test_devices_are_counted_only_where_they_are_sure(hardware: dict, name: str, used: int | None):
    found = device_of({"environment": {"hardware": hardware}}, KNOWN)
    assert (found.name, found.used) == (name, used)
    assert bool(found.why) == (used is None)


@pytest.mark.parametrize(
    ("text", "says"),
    [("=h100", "has no runs before"), ("*=", "not a known card"), ("*=h100*x", "there is no card"), ("x", "there is no card")],
)
def test_a_wrong_assignment_is_named(text: str, says: str):
    with pytest.raises(UserError, match=says):
        assignments_of([text], KNOWN)


def test_a_card_is_of_all_runs_or_of_those_that_a_pattern_fits_which_goes_before():
    assignments = assignments_of(["h100*8", "slow*=t4"], KNOWN)
    assert assigned_to(("a", "fast"), assignments) == ("nvidia-h100-sxm5", 8)
    assert assigned_to(("a", "slower"), assignments) == ("nvidia-t4", 1)
    assert assigned_to(("a", "fast"), assignments[:1]) is None


def test_every_link_leads_somewhere(tmp_path: Path):
    out = tmp_path / "site"
    built = build_site([runs_of(tmp_path / "runs")], out, assigned=["fast=gaudi3"])
    assert built.problems == []
    pages = sorted(out.rglob("*.html"))
    assert len(pages) == built.pages
    reached = set()
    for page in pages:
        links = Links()
        links.feed(page.read_text())
        for link in links.found:
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), (page.name, link)
            reached.add(target)
            if anchor and target.name != "compare.html":
                assert f'id="{anchor}"' in target.read_text(), (page.name, link)
    assert set(pages) <= reached, "a page that nothing leads to"


def test_a_folder_that_is_no_run_and_a_damaged_one_are_told_and_the_rest_is_there(tmp_path: Path):
    runs = runs_of(tmp_path / "runs")
    (runs / "broken-json").mkdir()
    (runs / "broken-json/run.json").write_text("{")
    log = runs / "a-fast/records.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    built = build_site([runs], tmp_path / "site")
    assert [text.split(":")[0] for text in built.problems] == ["broken-json", "a-fast"]
    index = (tmp_path / "site/index.html").read_text()
    assert "broken-json" in index
    assert (tmp_path / "site/runs/a-fast/report.html").exists()


def test_a_site_is_written_anew_and_nothing_else_is(tmp_path: Path):
    llm_run(tmp_path / "runs/a")
    out = tmp_path / "site"
    build_site([tmp_path / "runs"], out)
    (out / "stale.html").write_text("old")
    first = (out / "index.html").read_bytes()
    build_site([tmp_path / "runs"], out)
    assert not (out / "stale.html").exists()
    assert (out / "index.html").read_bytes() == first
    (out / MARK).unlink()
    with pytest.raises(UserError, match="not a site made by this command"):
        build_site([tmp_path / "runs"], out)
    with pytest.raises(UserError, match="is not a folder"):
        build_site([tmp_path / "runs"], tmp_path / "runs/a/run.json")


def test_names_that_are_the_same_or_hostile_get_pages_of_their_own(tmp_path: Path):
    for place, name in enumerate(HOSTILE):
        llm_run(tmp_path / f"runs{place}/same", count=60, engine={"name": name, "model": name, "versions": {}})
    build_site([tmp_path / f"runs{place}" for place in range(len(HOSTILE))], tmp_path / "site")
    assert len(list((tmp_path / "site/runs").iterdir())) == len(HOSTILE)
    models = list((tmp_path / "site/models").iterdir())
    assert len(models) == len(HOSTILE)
    assert all(re.fullmatch(r"[a-z0-9-]+\.html", path.name) for path in models)


def test_the_command(tmp_path: Path):
    def site(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from bytemlperf.app import main; main()", "site", "build", *words]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"}, timeout=120, check=False
        )

    llm_run(tmp_path / "runs/a")
    done = site("runs", "--out", "out", "--title", "Ours")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("open out/index.html\n")
    assert "<title>Ours</title>" in (tmp_path / "out/index.html").read_text()
    (tmp_path / "empty").mkdir()
    done = site("empty", "runs", "--out", "with-empty")
    assert done.returncode == 0, "what can be read is shown"
    assert "problem: empty: empty is not a run folder" in done.stdout
    for words, says in (
        (("gone", "--out", "x"), "gone neither is nor holds a run folder"),
        (("runs", "--out", "runs"), "is not empty"),
        (("runs", "--out", "x", "--card", "=a"), "PATTERN=CARD"),
        (("runs",), "--out"),
    ):
        done = site(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert says in done.stderr
    assert not (tmp_path / "x").exists()


def compared_devices(start: Path) -> dict[str, dict]:
    text = (start.parent / "compare.html").read_text()
    data = json.loads(re.search(r'id="compare-data">(.*?)</script>', text, re.DOTALL)[1])
    return {device["id"]: device for device in data["devices"]}


def test_servers_whose_hardware_is_not_known_are_no_device_together(tmp_path: Path):
    for name in ("one", "other"):
        llm_run(tmp_path / "runs" / name, label=name, in_flight=8, engine={"name": "openai", "model": "m", "remote": True, "versions": {}})
    devices = compared_devices(build_site([tmp_path / "runs"], tmp_path / "site").start)
    assert set(devices) == set(KNOWN)
    assert not any(device["measured"] for device in devices.values())
    board_page = (tmp_path / "site/leaderboard-llm-serving.html").read_text()
    assert board_page.count("<bdi>remote, hardware not known</bdi>") == 2


def test_a_suite_without_a_figure_says_so(tmp_path: Path):
    llm_run(tmp_path / "runs/empty", 0, label="empty", in_flight=8)
    build_site([tmp_path / "runs"], tmp_path / "site")
    assert "no run of this suite has a figure yet" in (tmp_path / "site/leaderboard-llm-serving.html").read_text()


def test_the_data_of_the_comparison_is_the_boards(tmp_path: Path):
    built = build_site([runs_of(tmp_path / "runs")], tmp_path / "site", assigned=["fast=gaudi3", "slow=gaudi2"])
    devices = compared_devices(built.start)
    assert len(devices) == len(KNOWN) + 1, "every card, and the machine of the general run"
    cases = [{row["case"] for row in devices[name]["measured"]} for name in ("intel-gaudi2", "intel-gaudi3")]
    assert cases[0] == cases[1] != set()
