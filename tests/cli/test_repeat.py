"""`serve-bench --config RUN`: a run once more, from its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.run.repeat import repeat_plan
from tests.cli.helpers import QUICK, bmp, run_folder
from tests.runs.reading import read_records

ADDRESS = "http://192.0.2.1:9"


def run_json(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("first")
    ended = bmp(*QUICK, "--request-rate", "200", "--num-prompts", "20", "--seed", "7", "--label", "mine", "--no-report", cwd=place)
    return run_folder(ended.stdout, place)


def changed(run: Path, place: Path, **flags: Any) -> Path:
    """A copy whose run.json has other flags."""
    folder = place / "run"
    shutil.copytree(run, folder)
    content = run_json(folder)
    content["config"]["flags"] |= flags
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_a_run_is_repeated_with_its_schedule_engine_and_label(run, tmp_path):
    ended = bmp("serve-bench", "--config", str(run), "--quiet", cwd=tmp_path)
    assert ended.returncode in (0, 1), ended.stderr
    folder = run_folder(ended.stdout, tmp_path)
    assert folder.parent == tmp_path / "runs"
    first, second = run_json(run), run_json(folder)
    assert {key: second[key] for key in ("schedule_sha256", "seed", "label", "engine")} == {
        key: first[key] for key in ("schedule_sha256", "seed", "label", "engine")
    }
    assert second["config"]["scenario"] == first["config"]["scenario"]
    aside = {"runs_dir": None, "quiet": None}
    assert second["config"]["flags"] | aside == first["config"]["flags"] | aside
    assert [record.index for record in read_records(folder)] == [record.index for record in read_records(run)]


def test_flags_beside_it_replace_those_of_the_run_and_nothing_else(run):
    plan = repeat_plan(run, Flags(num_prompts=5, seed=0, goodput=("ttft:80",)), {"num_prompts", "seed", "goodput"}, trust=False)
    assert (plan.load.scenario.num_requests, plan.load.seed, plan.load.scenario.slo.ttft_ms) == (5, 0, 80)
    assert plan.load.scenario.arrival.rate == 200
    assert plan.engine.options == {"ttft_ms": "5", "itl_ms": "1"}


def test_a_default_that_is_typed_counts_as_given(run, tmp_path):
    ended = bmp("serve-bench", "--config", str(run), "--seed", "0", "--num-prompts", "3", "--quiet", cwd=tmp_path)
    assert run_json(run_folder(ended.stdout, tmp_path))["seed"] == 0


def test_where_runs_go_is_not_the_folders_to_decide(run, tmp_path):
    folder = changed(run, tmp_path, runs_dir="/tmp/elsewhere")
    assert repeat_plan(folder, Flags(), (), trust=True).output.run.runs_dir == Path("runs")


def test_an_address_is_confirmed_by_giving_one(run, tmp_path):
    folder = changed(run, tmp_path, engine="openai", engine_options=[], base_url=ADDRESS)
    with pytest.raises(UserError, match=f"run.json wants --base-url {ADDRESS}, which needs your confirmation"):
        repeat_plan(folder, Flags(), (), trust=False)
    other = Flags(base_url="http://192.0.2.2:9")
    assert repeat_plan(folder, other, {"base_url"}, trust=False).engine.options["base_url"] == "http://192.0.2.2:9"
    assert repeat_plan(folder, Flags(), (), trust=True).engine.options["base_url"] == ADDRESS


def test_another_schedule_than_the_runs_is_refused(run, tmp_path):
    folder = changed(run, tmp_path)
    content = run_json(folder) | {"schedule_sha256": "0" * 64}
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="another schedule than its configuration makes here; its prompt files have changed"):
        repeat_plan(folder, Flags(), (), trust=False)
    assert repeat_plan(folder, Flags(num_prompts=5), {"num_prompts"}, trust=False).load.scenario.num_requests == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config", "nowhere"), "error: nowhere is not a run folder: it does not exist; "),
        (("--config", ".", "--scenario", "chat"), "error: --config repeats a run with its own scenario; leave out --config, or --scenario"),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path):
    ended = bmp("serve-bench", *words, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(said)
    assert ended.stderr.count("\n") == 1
