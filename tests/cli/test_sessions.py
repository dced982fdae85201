"""Sessions as a user runs them: the command against the reference server on loopback."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bytemlperf_llm.record.record import RequestRecord
from engines.reference.server import ReferenceServer
from tests.cli.helpers import bmp, run_folder, start, wait_for_records
from tests.runs.reading import read_records, records_of
from tests.sessions.test_hashed import WEKA

RAN = (0, 1)  # a machine that is busy with something else may make a run invalid
SESSIONS = """
name: talk
description: quick conversations
prompts:
  sessions:
    synthetic: {turns: {distribution: uniform, min: 2, max: 4}, words: {distribution: constant, value: 6}, system_words: 5}
    think_ms: {distribution: constant, value: 20}
output_tokens: {distribution: constant, value: 3}
arrival: {process: closed, max_concurrency: 4}
num_sessions: 12
warmup_requests: 1
"""
DAG = [
    {"session_id": "main", "turns": [{"messages": [{"role": "user", "content": text}], "max_tokens": 3} for text in ("a", "b")]},
    {"session_id": "sub", "turns": [{"messages": [{"role": "user", "content": "c"}], "max_tokens": 3, "delay": 30}]},
]
DAG[0]["turns"][0]["spawns"] = ["sub"]  # type: ignore[index]


def ran(folder: Path, *words: str, scenario: str = SESSIONS) -> tuple[Path, list[RequestRecord], dict[str, Any]]:
    """Folder, records and summary of a run."""
    (folder / "talk.yaml").write_text(scenario, encoding="utf-8")

    async def main() -> Any:
        async with ReferenceServer({"ttft_ms": "3", "itl_ms": "1"}) as server:
            command = ("serve-bench", "--engine", "openai", "--base-url", server.url, "--scenario", "talk.yaml", "--tokenizer", "words")
            return await asyncio.to_thread(bmp, *command, *words, cwd=folder)

    ended = asyncio.run(main())
    assert ended.returncode in RAN, ended.stderr
    run = run_folder(ended.stdout, folder)
    return run, sorted(read_records(run), key=lambda record: record.index), json.loads((run / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_of_sessions_from_start_to_end(tmp_path: Path, workers: str) -> None:
    run, records, summary = ran(tmp_path, "--workers", workers, "--goodput", "session:60000")
    sessions = defaultdict(list)
    for record in records:
        sessions[record.session].append(record)
    assert len(sessions) == 12
    for turns in sessions.values():
        assert [record.turn for record in turns] == list(range(turns[0].session_turns))
        assert len({record.worker for record in turns}) == 1
        assert all(later.planned_ns == before.end_ns + 20_000_000 for before, later in pairwise(turns))
    said = summary["sessions"]
    assert (said["sessions"], said["turns"], said["outcomes"]["ok"]) == (12, len(records), 12)
    assert said["goodput"]["good_sessions"] == 12
    assert sum(said["critical_path"].values()) == pytest.approx(1)
    verified = bmp("verify", str(run), cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "no session is left to begin" in bmp("resume", str(run), "--trust", cwd=tmp_path).stderr


@pytest.mark.slow
def test_the_agent_scenario(tmp_path: Path) -> None:
    """Tool turns, subagents and their joins over HTTP; every turn's prompt grows by what its parent said."""
    _, records, summary = ran(tmp_path, "--scenario", "agent", "--num-sessions", "3", "--time-scale", "0.05")
    assert {record.outcome for record in records} == {"ok"}
    assert summary["sessions"]["outcomes"]["ok"] == 3
    joined = [record for record in records if len(record.parents) > 1]
    assert joined
    ends = {(record.session, record.turn): record.end_ns for record in records}
    for record in joined:
        assert record.planned_ns == max(ends[record.session, parent] for parent in record.parents)


@pytest.mark.slow
def test_prompts_of_block_hashes_have_their_length_at_the_server(tmp_path: Path) -> None:
    (tmp_path / "weka.json").write_text(json.dumps(WEKA), encoding="utf-8")
    words = ("--dataset-name", "weka", "--dataset-path", "weka.json", "--max-concurrency", "1", "--time-scale", "0.001")
    _, records, summary = ran(tmp_path, *words)
    assert [(record.prompt_tokens, record.output_tokens) for record in records] == [(130, 5), (70, 5), (70, 5), (64, 5), (200, 5), (200, 5)]
    assert [record.reusable_tokens for record in records] == [0, 1, 64, 1, 128, 64]
    assert summary["sessions"]["outcomes"]["ok"] == 1


@pytest.mark.slow
def test_a_moved_turn_is_found(tmp_path: Path) -> None:
    run, records, _ = ran(tmp_path)
    moved = next(record for record in records if record.turn == 1)
    log = run / "records.jsonl"
    log.write_text(log.read_text().replace(f'"planned_ns":{moved.planned_ns}', f'"planned_ns":{(moved.planned_ns or 0) - 1000}'))
    assert f"request {moved.index} was due" in bmp("verify", str(run), cwd=tmp_path).stdout.replace("\n", " ")


@pytest.mark.slow
def test_a_dag_with_live_answers(tmp_path: Path) -> None:
    (tmp_path / "dag.jsonl").write_text("".join(json.dumps(line) + "\n" for line in DAG))
    words = ("--dataset-name", "dag_jsonl", "--dataset-path", "dag.jsonl", "--answers", "live", "--keep-output")
    run, records, summary = ran(tmp_path, *words)
    assert [(record.session, record.turn, record.parents) for record in records] == [("main", 0, []), ("main", 1, [0]), ("main", 2, [0, 1])]
    assert records[2].prompt_tokens == 1 + 3 + 1
    assert summary["sessions"]["answers"] == "live"
    assert "live answers" in bmp("summarize", str(run), cwd=tmp_path).stdout.replace("\n", " ")


@pytest.mark.slow
def test_an_interrupt_leaves_sessions_cut(tmp_path: Path) -> None:
    (tmp_path / "talk.yaml").write_text(SESSIONS.replace("num_sessions: 12", "num_sessions: 5000"), encoding="utf-8")
    process = start("serve-bench", "--engine", "reference", "--scenario", "talk.yaml", cwd=tmp_path)
    folder = wait_for_records(tmp_path, 20, process)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert "Traceback" not in stdout
    said = json.loads((folder / "summary.json").read_text())["sessions"]
    assert said["outcomes"]["cut"] > 0
    assert said["dropped_turns"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("rate", [None, "150"])
def test_a_stopped_run_goes_on_with_the_sessions_that_have_not_begun(tmp_path: Path, number: int, rate: str | None) -> None:
    (tmp_path / "talk.yaml").write_text(SESSIONS.replace("num_sessions: 12", "num_sessions: 90"), encoding="utf-8")
    process = start(
        "serve-bench", "--engine", "reference", "--scenario", "talk.yaml", *(("--request-rate", rate) if rate else ()), cwd=tmp_path
    )
    folder = wait_for_records(tmp_path, 60, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    before = list(read_records(folder))
    ended = bmp("resume", str(folder), "--trust", cwd=tmp_path)
    assert ended.returncode in RAN, ended.stderr
    records, said = list(read_records(folder)), json.loads((folder / "summary.json").read_text())["sessions"]
    assert len({record.index for record in records}) == len(records)
    added = records_of(folder / "records-1.jsonl")
    assert {record.session for record in added}.isdisjoint(record.session for record in before)
    assert sum(said["outcomes"].values()) == 90
    assert said["outcomes"]["failed"] == 0
    assert said["outcomes"]["cut"] > 0
    assert min(record.planned_ns or 0 for record in added) > max(record.end_ns for record in before) - 100_000_000  # the start's delay
    verified = bmp("verify", str(folder), cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.slow
@pytest.mark.parametrize("rate", [None, "80"])
def test_until_begins_no_session_more_and_cuts_none(tmp_path: Path, rate: str | None) -> None:
    rated = ("--request-rate", rate) if rate else ()
    run, records, summary = ran(tmp_path, "--num-sessions", "900", "--until", "ttft mean ±100%", *rated)
    assert summary["until"]["reached"]
    assert summary["sessions"]["outcomes"]["cut"] == 0
    assert 60 <= len(records) == summary["scheduled"] < 2_000
    assert json.loads((run / "run.json").read_text())["config"]["scenario"]["num_sessions"] == summary["sessions"]["sessions"]
    verified = bmp("verify", str(run), cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.slow
def test_rate_auto_is_of_sessions(tmp_path: Path) -> None:
    """Two slots, 5 ms a turn, three turns a session on average: some 130 sessions/s are carried."""
    scenario = SESSIONS.replace("{process: closed, max_concurrency: 4}", "{process: poisson, rate: auto}") + "auto: {probe_s: 5}\n"
    words = ("--engine", "reference", "--engine-option", "ttft_ms=3", "--engine-option", "itl_ms=1", "--engine-option", "slots=2")
    (tmp_path / "talk.yaml").write_text(scenario, encoding="utf-8")
    ended = bmp("serve-bench", *words, "--scenario", "talk.yaml", cwd=tmp_path)
    run = json.loads((run_folder(ended.stdout, tmp_path) / "run.json").read_text())
    assert 40 < run["config"]["scenario"]["arrival"]["rate"] == run["config"]["probe"]["chosen_rate_per_s"] < 120
    assert "sessions/s of" in run["config"]["probe"]["why"]
