"""A machine's own hardware is never credited to a server that it was the client of."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml

from bytemlperf.catalogue.index import _run_row
from bytemlperf.compare.comparison import compare_all, gather
from bytemlperf.compare.normalised import devices_of, normalised_table
from bytemlperf.errors import UserError
from bytemlperf.hardware import cards, measured
from bytemlperf.report.gather import view_run
from bytemlperf.report.run_page import run_page
from bytemlperf.site.devices import device_of, parse_assignments
from bytemlperf.submit.declaration import Declaration
from bytemlperf.submit.rules import Read, RunRead, findings
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
    found = device_of("a", "a", run, KNOWN, [])
    assert (found.name, found.card_id, found.used) == ("remote, hardware unknown", None, None)
    assert "--card CARD" in found.why
    (comparison,) = compare_all(views, views[0])
    assert devices_of(comparison, {}, KNOWN) == [None, None]
    assert normalised_table(comparison, [None, None]) is None
    assert _run_row("a", views[0])[10] is None, "the catalogue's machine"
    facts = dict(run_page(views[0]).facts)
    assert "machine" not in facts
    assert "Tesla T4" in facts["client machine"]
    assert facts["device"] == "remote, hardware unknown"
    found = findings("device", Read(DECLARED, [RunRead("a", run, "valid", (), ())]))
    assert [(finding.level, finding.rule) for finding in found] == [("warning", "device")]


def test_what_the_user_states_is_taken_everywhere(tmp_path):
    folder = served(tmp_path / "a", "h100*8")
    view = view_run(folder)
    found = device_of("a", "a", view.run, KNOWN, [])
    assert (found.card_id, found.used, found.why) == ("nvidia-h100-sxm5", 8, "")
    assert device_of("a", "a", view.run, KNOWN, parse_assignments(["a=t4"], KNOWN)).card_id == "nvidia-t4", (
        "the site's own word goes before"
    )
    views, _ = gather([folder, served(tmp_path / "b")])
    (comparison,) = compare_all(views, views[0])
    devices = devices_of(comparison, {}, KNOWN)
    assert [device and (device.card.name, device.count) for device in devices] == [(KNOWN["nvidia-h100-sxm5"].name, 8), None]
    assert "remote, hardware unknown" in normalised_table(comparison, devices).note
    (device, _) = devices_of(comparison, {"*": "t4*2"}, KNOWN)
    assert (device.card.name, device.count) == (KNOWN["nvidia-t4"].name, 2)
    (finding,) = findings("device", Read(DECLARED, [RunRead("a", view.run, "valid", (), ())]))
    assert finding.level == "problem"
    assert "H100" in finding.text


def test_a_run_in_this_machine_keeps_its_hardware(tmp_path):
    run = {"engine": {"name": "vllm", "device": "cpu", "remote": False}, "environment": {"hardware": T4}}
    assert device_of("a", "a", run, KNOWN, []).card_id == "nvidia-t4"


@pytest.mark.parametrize("text", ["", "nothing-like-it", "h100*0", "*8"])
def test_a_device_that_is_none_is_one_line(text):
    with pytest.raises(UserError, match="card"):
        measured.parse_device(text, KNOWN)


def test_the_command_line_takes_and_shows_it(tmp_path):
    ended = bmp(*QUICK, "--request-rate", "100", "--num-prompts", "3", "--card", "h100*8", "--no-report", cwd=tmp_path)
    assert f"8 × {KNOWN['nvidia-h100-sxm5'].name} (as stated)" in ended.stdout
    run = json.loads((run_folder(ended.stdout, tmp_path) / "run.json").read_text())
    assert (run["engine"]["remote"], run["config"]["flags"]["device"]) == (False, "h100*8")
    assert bmp(*QUICK, "--card", "h1000", cwd=tmp_path).returncode == 2
