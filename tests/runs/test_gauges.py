"""gauges.jsonl: asked once a second, bounded, whole lines whatever happens, and every flipped byte is found."""

from __future__ import annotations

import json

import pytest

from bytemlperf.report.gather import view_run
from bytemlperf.report.page import data_block
from bytemlperf.runs.checksums import write_checksums
from bytemlperf.runs.files import GAUGES as NAME
from bytemlperf.runs.kinds import Plot, Table
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.record.gauges import SAMPLES_PER_STEP, GaugeLog, read_gauges, usable
from tests.cli.helpers import QUICK, bmp, run_folder
from tests.report.made import llm_run
from tests.runs.made_run import made_run

S = 1_000_000_000


class Engine:
    def __init__(self, *answers):
        self.answers = list(answers)

    def stats(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def sampled(folder, engine, seconds, said=None):
    log = GaugeLog(engine, folder, (said if said is not None else []).append)
    for second in range(1, seconds + 1):
        log.sample(second * S)
    log.close()


def test_one_line_a_second_of_numbers_alone(tmp_path):
    sampled(tmp_path, Engine({"running": 2, "kv_cache_usage": 0.25, "x": float("nan"), "text": "a", "Bad-Name": 1.0}), 3)
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    assert lines == [{"at_ns": second * S, "gauges": {"running": 2.0, "kv_cache_usage": 0.25}} for second in (1, 2, 3)]
    assert len(usable({f"g{each}": 1.0 for each in range(100)})) == 64


def test_an_engine_without_stats_leaves_no_file(tmp_path):
    sampled(tmp_path, object(), 3)
    sampled(tmp_path, None, 3)
    sampled(tmp_path, Engine({}), 3)
    assert not (tmp_path / NAME).exists()


def test_a_long_run_is_sampled_ever_more_seldom(tmp_path):
    sampled(tmp_path, Engine({"running": 1.0}), 6 * 3600)
    times = [sample.at_ns // S for sample in read_gauges(tmp_path).samples]
    assert times[SAMPLES_PER_STEP - 1] == 3600
    assert times[SAMPLES_PER_STEP + 10] - times[SAMPLES_PER_STEP + 9] == 2
    assert len(times) < 3 * SAMPLES_PER_STEP
    assert times[-1] > 6 * 3600 - 4


def test_an_engine_that_fails_is_asked_no_more_and_that_is_said_once(tmp_path):
    said: list[str] = []
    sampled(tmp_path, Engine({"running": 1.0}, RuntimeError("gone"), {"running": 1.0}), 5, said)
    assert len(read_gauges(tmp_path).samples) == 1
    assert said == ["sampling of the engine's metrics stopped: RuntimeError: gone"]


def test_a_cut_at_any_byte_leaves_whole_lines_and_is_gone_on_with(tmp_path):
    sampled(tmp_path, Engine({"running": 1.0}), 3)
    whole = (tmp_path / NAME).read_bytes()
    ends = [at for at, byte in enumerate(whole, start=1) if byte == 10]
    for length in range(len(whole)):
        (tmp_path / NAME).write_bytes(whole[:length])
        kept = read_gauges(tmp_path)
        assert len(kept.samples) == sum(end <= length for end in ends)
        assert bool(kept.damages) == (length not in (0, *ends))
    log = GaugeLog(Engine({"running": 7.0}), tmp_path, print)
    log.sample(9 * S)
    log.close()
    assert [sample.at_ns // S for sample in read_gauges(tmp_path).samples] == [1, 2, 9]
    assert not read_gauges(tmp_path).damages


def test_verify_finds_a_flipped_byte_and_a_missing_file(tmp_path):
    folder = made_run(tmp_path / "run")
    sampled(folder, Engine({"running": 1.0}), 2)
    write_checksums(folder)
    assert verify_suite(folder).findings == []
    whole = (folder / NAME).read_bytes()
    for offset in range(0, len(whole), 9):
        (folder / NAME).write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        assert any(NAME in finding for finding in verify_suite(folder).findings)
    (folder / NAME).unlink()
    assert verify_suite(folder).findings == [f"{NAME} is missing"]


# -- the report -------------------------------------------------------------------------


@pytest.fixture
def view_with(tmp_path):
    def make(text: str):
        folder = llm_run(tmp_path / "run", 100)
        (folder / NAME).write_text(text)
        return view_run(folder)

    return make


def test_the_report_plots_them_on_the_runs_own_time(view_with):
    lines = [{"at_ns": second * S, "gauges": {"running": float(second), "kv_cache_usage": second / 100}} for second in range(4)]
    view = view_with("".join(json.dumps(line) + "\n" for line in lines))
    plot = next(each for each in view.sections if isinstance(each, Plot) and each.title == "The run from start to end")
    traces = {trace["name"]: trace for trace in json.loads(data_block(plot.data))}
    assert traces["running in the engine"]["y"] == [0, 1, 2, 3]
    assert traces["KV cache used"]["y"] == [0, 1, 2, 3], "in percent"
    origin_s = -traces["running in the engine"]["x"][0]
    assert traces["running in the engine"]["x"] == pytest.approx([second - origin_s for second in range(4)], abs=1e-4)
    assert traces["running in the engine"]["yaxis"] != traces["KV cache used"]["yaxis"]
    table = next(each for each in view.sections if isinstance(each, Table) and each.title == "Engine metrics")
    assert table.rows[0] == ["running in the engine", 0.0, 1.5, 3.0, 3.0, 4]


def test_a_torn_file_is_named_and_the_rest_is_shown(view_with):
    view = view_with('{"at_ns":0,"gauges":{"running":1.0}}\n{"at_ns":1,"gauges":{"runni')
    assert any("torn tail" in problem for problem in view.problems)
    assert any(isinstance(each, Table) and each.title == "Engine metrics" for each in view.sections)


def test_a_run_of_the_command_keeps_them(tmp_path):
    done = bmp(*QUICK, "--num-prompts", "30", "--request-rate", "12", "--engine-option", "slots=1", cwd=tmp_path)
    folder = run_folder(done.stdout, tmp_path)
    kept = read_gauges(folder)
    assert kept.samples
    assert {"running", "waiting"} <= kept.samples[0].gauges.keys()
    assert verify_suite(folder).findings == []
    assert "running in the engine" in (folder / "report.html").read_text()
