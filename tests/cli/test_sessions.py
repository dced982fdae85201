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
from tests.runs.reading import read_records

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
    assert "repeat it" in bmp("resume", str(run), "--trust", cwd=tmp_path).stderr


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
