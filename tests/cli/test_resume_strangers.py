"""A run folder is data: what resume and a repetition take from it, what they ask for, and what they leave alone."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.errors import UserError
from bytemlperf.runs.suite import SuiteRun
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.run.bench import resume
from bytemlperf_llm.run.repeat import repeat_plan
from bytemlperf_llm.run.trust import refuse_other_address, refuse_other_engine
from engines.contract import EngineInfo
from tests.cli.helpers import QUICK, bmp, start, wait_for_records
from tests.runs.reading import read_records

ADDRESS = "http://192.0.2.1:9"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its middle."""
    place = tmp_path_factory.mktemp("stopped")
    process = start(*QUICK, "--request-rate", "100", "--num-prompts", "200", cwd=place)
    folder = wait_for_records(place, 20, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return folder


def changed(stopped: Path, place: Path, **flags: Any) -> Path:
    """A copy whose run.json has other flags."""
    folder = place / "run"
    shutil.copytree(stopped, folder)
    run = json.loads((folder / "run.json").read_text())
    run["config"]["flags"] |= flags
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


STRANGE: list[dict[str, Any]] = [
    {"engine": "openai", "base_url": ADDRESS},
    {"engine": "openai", "base_url": ADDRESS, "engine_options": ["api_key_env=CANARY"]},
    {"engine": "openai", "base_url": ADDRESS, "api_key_file": "/etc/hostname"},
    {"engine": "openai", "engine_options": [f"base_url={ADDRESS}"]},
    {"engine": "transformers", "model": "someone/else", "engine_options": ["trust_remote_code=true"]},
    {"engine": "vllm", "engine_options": ["trust_remote_code=True"]},
    {"engine": "vllm", "model": "./weights"},
    {"engine_options": ["insecure=1"]},
    {"ray": "192.0.2.1:6379"},
    {"otlp": ADDRESS},
    {"push_gateway": ADDRESS},
    {"prometheus_port": 0, "prometheus_host": "0.0.0.0"},
    {"dashboard_port": 0},
    {"save_result": True, "result_dir": "/tmp/elsewhere"},
    {"save_result": True, "result_filename": "../../elsewhere.json"},
    {"dataset_name": "custom", "dataset_path": "/etc/hostname"},
    {"tokenizer": "someone/else"},
]


@pytest.mark.parametrize("flags", STRANGE, ids=lambda flags: ",".join(map(str, flags)))
def test_what_reaches_out_listens_runs_code_or_writes_elsewhere_is_not_taken_from_a_folder(flags, stopped, tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", "canary")
    monkeypatch.setattr("bytemlperf_llm.run.bench.serve_bench", lambda *_, **__: pytest.fail("it went on"))
    folder = changed(stopped, tmp_path, **flags)
    before = content(folder)
    with pytest.raises(UserError, match=r"run.json wants .*which needs your confirmation") as refused:
        resume(folder, [], None, ["bmp-llm"], trust=False, quiet=True)
    assert "--trust" in refused.value.fix or ADDRESS in refused.value.fix
    with pytest.raises(UserError, match=r"run.json wants .*which needs your confirmation"):
        repeat_plan(folder, Flags(), (), trust=False)
    assert content(folder) == before


@pytest.mark.parametrize("of_a_class", [False, True])
@pytest.mark.parametrize(("folder", "prompts"), [("built in", "/etc/passwd"), ("built in", "../../secret"), ("/home", "notes.jsonl")])
def test_files_of_this_machine_are_not_sent_because_a_folder_says_so(folder, prompts, of_a_class, stopped, tmp_path):
    place = changed(stopped, tmp_path)
    run = json.loads((place / "run.json").read_text())
    run["config"]["scenario_folder"] = folder
    if of_a_class:
        run["config"]["scenario"]["prompts"] = {"synthetic": {"words": {"distribution": "constant", "value": 3}}}
        run["config"]["scenario"]["classes"] = {"a": {"share": 1, "prompts": {"files": [prompts]}}}
    else:
        run["config"]["scenario"]["prompts"] = {"files": [prompts]}
    (place / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match=rf"run.json wants the file {prompts}.*which needs your confirmation"):
        resume(place, [], None, ["bmp-llm"], trust=False, quiet=True)


def test_what_the_command_line_confirms_is_taken(stopped, tmp_path, monkeypatch):
    class Gone(Exception):
        """It went on."""

    def go(plan: Plan, *_: Any, **__: Any) -> None:
        raise Gone(plan.engine.options["base_url"])

    monkeypatch.setattr("bytemlperf_llm.run.bench.serve_bench", go)
    folder = changed(stopped, tmp_path, engine="openai", base_url=ADDRESS)
    for base_url, trust in ((ADDRESS, False), (ADDRESS + "/", False), (None, True)):
        with pytest.raises(Gone, match=ADDRESS):
            resume(folder, [], base_url, ["bmp-llm"], trust=trust, quiet=True)


def test_another_server_engine_or_model_gets_a_run_of_its_own(stopped, tmp_path):
    folder = changed(stopped, tmp_path, engine="openai", base_url=ADDRESS)
    with pytest.raises(UserError, match=r"the run was against .*192.0.2.1:9, not http://192.0.2.2:9"):
        resume(folder, [], "http://192.0.2.2:9", ["bmp-llm"], trust=True, quiet=True)
    run = {"engine": {"name": "openai", "model": "small", "device": "remote", "dtype": "", "versions": {}}}
    refuse_other_engine(run, EngineInfo(name="openai", model="small", device="remote"))
    with pytest.raises(UserError, match=r"the engine's model was small, and is large"):
        refuse_other_engine(run, EngineInfo(name="openai", model="large", device="remote"))
    with pytest.raises(UserError, match=r"the engine.s versions was \{\}, and is"):
        refuse_other_engine(run, EngineInfo(name="openai", model="small", device="remote", versions={"vllm": "2"}))


def test_several_addresses_are_all_confirmed():
    refuse_other_address("http://a:1 b:2", "a:1/ http://b:2")
    for other in ("http://a:1", "http://b:2 http://a:1"):
        with pytest.raises(UserError, match=r"the run was against http://a:1 b:2, not"):
            refuse_other_address("http://a:1 b:2", other)


def test_a_link_in_a_folder_leads_nowhere(stopped, tmp_path):
    folder = changed(stopped, tmp_path)
    precious = tmp_path / "precious"
    precious.write_text("half a line")
    (folder / "records-1.jsonl").symlink_to(precious)
    with pytest.raises(UserError, match=r"holds a link or special file: records-1\.jsonl"):
        resume(folder, [], None, ["bmp-llm"], trust=True, quiet=True)
    assert precious.read_text() == "half a line"


def test_of_three_at_once_one_goes_on(stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    three = [start("resume", str(folder), "--quiet", cwd=tmp_path) for _ in range(3)]
    said = [process.communicate(timeout=120) for process in three]
    statuses = sorted(process.returncode for process in three)
    assert statuses[1:] == [2, 2], said
    assert statuses[0] in (0, 1), said
    assert sorted(record.index for record in read_records(folder)) == list(range(200)), "each request once"
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0


def test_another_suites_resume_changes_nothing(stopped, tmp_path):
    folder = changed(stopped, tmp_path)
    (folder / "summary.json").write_text("{}")
    before = content(folder)
    for kind in ("micro", "general", "training"):
        with pytest.raises(UserError, match="is a run of kind llm"):
            SuiteRun.open(folder, kind)
    assert content(folder) == before
