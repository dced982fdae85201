"""A machine's own hardware is never credited to a server that it was the client of."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from bytemlperf.catalogue.index import _run_row
from bytemlperf.compare.comparison import compare_all, gather
from bytemlperf.compare.normalised import devices_of, normalised_table
from bytemlperf.errors import UserError
from bytemlperf.hardware import cards, measured
from bytemlperf.report.gather import view_run
from bytemlperf.report.run_page import run_page
from bytemlperf.site.gather import board, read_runs
from bytemlperf.submit.declaration import Declaration
from bytemlperf.submit.rules import Read, RunRead, findings
from bytemlperf_llm.cli import app
from tests.cli.helpers import QUICK, bmp, run_folder
from tests.report.made import llm_run
from tests.submit.made import DECLARATION

KNOWN = cards.load()
DECLARED = msgspec.convert(yaml.safe_load(DECLARATION), Declaration)
T4 = {"gpus": [{"name": "Tesla T4"}], "cpu": {"model": "AMD EPYC 9654 96-Core Processor", "sockets": 1}}


def served(folder: Path, device: str | None = None, engine: dict[str, object] | None = None) -> Path:
    """The folder of a run over HTTP by a client that has a T4."""
    run = llm_run(folder, label=folder.name)
    content = json.loads((run / "run.json").read_text())
    content["engine"] |= {"name": "openai", "remote": True, "device": "remote"} if engine is None else engine
    content["environment"]["hardware"] = T4
    content["config"].setdefault("flags", {})["device"] = device
    (run / "run.json").write_text(json.dumps(content))
    return run


ENGINES = [None, {"name": "openai", "device": "remote"}]
"""As it is written, and as it was before."""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_gets_no_card_of_its_clients(tmp_path, engine):
    views, _ = gather([served(tmp_path / "a", engine=engine), served(tmp_path / "b", engine=engine)])
    run = views[0].run
    found = measured.device_of(run, KNOWN)
    assert (found.name, found.card_id, found.used) == ("remote, hardware not known", None, None)
    assert "--card CARD" in found.why
    (comparison,) = compare_all(views, views[0])
    devices = devices_of(comparison, [], KNOWN)
    assert devices == [found, found]
    assert normalised_table(comparison, devices) is None
    assert _run_row("a", views[0])[10] is None, "the catalogue's machine"
    facts = dict(run_page(views[0]).facts)
    assert "machine" not in facts
    assert "Tesla T4" in facts["client machine"]
    assert facts["device"] == "remote, hardware not known"
    found = findings("device", Read(DECLARED, [RunRead("a", run, "valid", (), ())]))
    assert [(finding.level, finding.rule) for finding in found] == [("warning", "device")]


def test_what_the_user_states_is_taken_everywhere(tmp_path):
    folder = served(tmp_path / "a", "h100*8")
    view = view_run(folder)
    found = measured.device_of(view.run, KNOWN)
    assert (found.card_id, found.used, found.why) == ("nvidia-h100-sxm5", 8, "")
    assigned = measured.assigned_to(("a", "a"), measured.assignments_of(["a=t4"], KNOWN))
    assert measured.device_of(view.run, KNOWN, assigned).card_id == "nvidia-t4", "the site's own word goes before"
    views, _ = gather([folder, served(tmp_path / "b")])
    (comparison,) = compare_all(views, views[0])
    devices = devices_of(comparison, [], KNOWN)
    assert [(device.name, device.used) for device in devices] == [
        (KNOWN["nvidia-h100-sxm5"].name, 8),
        ("remote, hardware not known", None),
    ]
    assert "remote, hardware not known" in normalised_table(comparison, devices).note
    (device, _) = devices_of(comparison, measured.assignments_of(["t4*2"], KNOWN), KNOWN)
    assert (device.name, device.used) == (KNOWN["nvidia-t4"].name, 2)
    (finding,) = findings("device", Read(DECLARED, [RunRead("a", view.run, "valid", (), ())]))
    assert finding.level == "problem"
    assert "H100" in finding.text


def test_a_run_in_this_machine_keeps_its_hardware(tmp_path):
    run = {"engine": {"name": "vllm", "device": "cpu", "remote": False}, "environment": {"hardware": T4}}
    assert measured.device_of(run, KNOWN).card_id == "nvidia-t4"


@pytest.mark.parametrize(("options", "used"), [({"tensor_parallel_size": "4", "data_parallel_size": "2"}, 8), ({}, None)])
def test_comparison_and_site_count_devices_in_one_way(tmp_path, options, used):
    """Of a machine with 8: as many as the engine was told, none where it wasn't."""
    run = llm_run(tmp_path / "a", in_flight=8)
    content = json.loads((run / "run.json").read_text())
    content["environment"]["hardware"] = {"gpus": [{"name": "Tesla T4"}] * 8}
    content["config"]["engine_options"] = options
    (run / "run.json").write_text(json.dumps(content))
    views, _ = gather([run])
    (comparison,) = compare_all(views, views[0])
    (device,) = devices_of(comparison, [], KNOWN)
    runs, _ = read_runs([run], KNOWN, [])
    assert (device.used, runs[0].device) == (used, device)
    table, (row,) = normalised_table(comparison, [device]), board(runs, "USD")
    assert (table is None) == (row.per_watt is None) == (used is None)
    if table is not None:
        (line,) = [line for line in table.rows if line[0].startswith("output token throughput, tokens/J")]
        assert float(line[1]) == pytest.approx(row.per_watt, rel=1e-3)


@pytest.mark.parametrize("text", ["", "nothing-like-it", "h100*0", "*8"])
def test_a_device_that_is_none_is_one_line(text):
    with pytest.raises(UserError, match="card"):
        measured.parse_device(text, KNOWN)


def test_the_command_line_takes_and_shows_it(tmp_path):
    ended = bmp(*QUICK, "--request-rate", "100", "--num-prompts", "3", "--device", "h100*8", "--no-report", cwd=tmp_path)
    assert f"8 × {KNOWN['nvidia-h100-sxm5'].name} (as stated)" in ended.stdout
    run = json.loads((run_folder(ended.stdout, tmp_path) / "run.json").read_text())
    assert (run["engine"]["remote"], run["config"]["flags"]["device"]) == (False, "h100*8")
    assert bmp(*QUICK, "--card", "h1000", cwd=tmp_path).returncode == 2


SHORT = (
    "--engine",
    "reference",
    "--engine-option",
    "ttft_ms=1",
    "--engine-option",
    "itl_ms=0.2",
    "--output-len",
    "4",
    "--num-warmups",
    "0",
)


@pytest.mark.parametrize(
    "words",
    [
        ("sweep", *SHORT, "--concurrency", "1", "--num-prompts", "4"),
        (
            "capacity",
            *SHORT,
            "--goodput",
            "ttft:500",
            "--share",
            "0.8",
            "--request-rate",
            "400",
            "--max-requests",
            "1920",
            "--confirm",
            "0",
        ),
    ],
)
def test_sweep_and_capacity_take_it_too(tmp_path, words):
    ended = CliRunner().invoke(app, [*words, "--card", "h100*8", "--no-report", "--quiet", "--runs-dir", str(tmp_path)])
    assert ended.exit_code in (0, 1), ended.output
    view = view_run(Path(ended.stdout.strip().splitlines()[-1]))
    found = measured.device_of(view.run, KNOWN)
    assert (found.card_id, found.used) == ("nvidia-h100-sxm5", 8)
    assert dict(run_page(view).facts)["device"] == f"8 × {KNOWN['nvidia-h100-sxm5'].name} (as stated)"
