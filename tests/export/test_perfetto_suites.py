"""A timeline of a run of every suite, and the flag that makes it."""

from __future__ import annotations

import json
from datetime import datetime

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf.export.perfetto import NAME, export_timeline
from bytemlperf.runs.folder import write_json
from bytemlperf_llm.campaign.records import JobRecord as CampaignRecord
from tests.cli.helpers import bmp
from tests.export.trace_reader import REALTIME, Trace
from tests.general_perf.test_run_kind import BAD, GOOD, LATENCIES_NS, record, run_json
from tests.micro.made import run_and_records
from training.results.records import CheckpointRecord, EndRecord, EventRecord, StartRecord, StepRecord

pytest.importorskip("perfetto", reason="Perfetto's protobufs are not installed (extra perfetto)")

STARTED = "2026-11-24T12:00:00.250+00:00"
S = 1_000_000_000


def drawn(folder, run, records, summary=None):
    """The trace of these records, and what the command line says."""
    folder.mkdir()
    write_json(folder / "run.json", {"format_version": 1, "label": "made", "started_at": STARTED, **run})
    (folder / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in records))
    if summary is not None:
        write_json(folder / "summary.json", summary)
    said = export_timeline(folder)
    return Trace(folder / NAME), said


def test_rows_of_a_sweep_are_laid_end_to_end_on_their_operators_tracks(tmp_path):
    run, rows = run_and_records()
    rows = [row | {"ended_unix_ns": 0} for row in rows]  # as older ones are
    trace, said = drawn(tmp_path / "run", run, rows, {"verdict": "partial", "reasons": ["of 11 cases 1 failed"]})
    assert f"{len(rows)} of {len(rows)} cases" in said
    assert "behind the one before" in said
    slices = {one.name: one for one in trace.slices}
    at_ns = 0
    for row in rows:
        one = slices[row["key"]]
        assert one.track == ("cases", row["op"])
        assert (one.start_ns, one.end_ns) == (at_ns, at_ns + round((row["duration_s"] or 0) * S))
        at_ns = one.end_ns
    assert [name for track, name, _, _ in trace.instants if track == ("errors",)] == ["crashed while timing: killed by SIGSEGV"]
    verdict = next((at_ns, facts) for _, name, at_ns, facts in trace.instants if name == "verdict: partial")
    assert verdict == (at_ns, {"reason 1": "of 11 cases 1 failed"})
    assert trace.clocks[REALTIME] == round(datetime.fromisoformat(STARTED).timestamp() * S)


def test_rows_that_keep_when_they_ended_stand_there(tmp_path):
    run, rows = run_and_records()
    began_ns = round(datetime.fromisoformat(STARTED).timestamp() * S)
    rows = [row | {"duration_s": 1.5, "ended_unix_ns": began_ns + (10 * place + 2) * S} for place, row in enumerate(rows[:3])]
    trace, _ = drawn(tmp_path / "run", run, [*rows, rows[0] | {"key": "no time", "ended_unix_ns": 0}])
    slices = {one.name: (one.start_ns / S, one.end_ns / S) for one in trace.slices}
    assert [slices[row["key"]] for row in rows] == [(0.5, 2.0), (10.5, 12.0), (20.5, 22.0)]
    assert slices["no time"] == (22.0, 23.5)


def test_a_models_row_has_its_stages(tmp_path):
    records = [
        record(GOOD, "performance", batch_size=4, latency_ns=LATENCIES_NS, window_ns=S),
        record(GOOD, "job", wall_s=3.0, stages_s={"start": 0.5, "compile": 1.5, "performance": 1.0}),
        record(BAD, "job", wall_s=1.0, status="failed", error_class="unsupported_operator", reason="no"),
    ]
    trace, said = drawn(tmp_path / "run", run_json(GOOD, BAD), records)
    assert "2 of 2 jobs" in said
    good, *stages = [one for one in trace.slices if one.track == ("jobs", "onnxruntime")]
    assert (good.name, good.start_ns, good.end_ns) == (GOOD, 0, 3 * S)
    assert good.facts["batch 4, closed, samples/s"] == 2000.0
    assert [(one.name, one.start_ns / S, one.end_ns / S) for one in stages] == [
        ("start", 0, 0.5),
        ("compile", 0.5, 2),
        ("performance", 2, 3),
    ]
    bad = next(one for one in trace.slices if one.name == BAD)
    assert (bad.start_ns, bad.end_ns, bad.facts["failed"]) == (3 * S, 4 * S, "unsupported_operator")


def step(number, at_s, **changes):
    """Of two ranks, a second long on the first."""
    times = {"step_ns": [S, S // 2], "data_ns": [S // 10, 0], "forward_ns": [S // 5] * 2, "backward_ns": [S // 2, S // 4]}
    more = {"optimizer_ns": [S // 5, S // 20], "sync_ns": [S // 100, None], "peak_bytes": [5, 9], "held_bytes": [1, 1]}
    told = {"role": "measured", "status": "ok", "samples": 8, "tokens": 512, "loss": 2.0 - number, "grad_norm": 1.0, "learning_rate": 0.1}
    about = {"step": number, "attempt": 0, "at_ns": at_s * S, "wall_ns": S}
    return StepRecord(**{**about, **told, **times, **more, **changes})


def test_steps_of_a_training_run_have_their_parts_on_every_rank(tmp_path):
    start = {name: [] for name in ("parameters_by_rank", "peak_flops", "devices", "hosts")}
    numbers = dict.fromkeys(("parameters", "model_flops", "recomputed_flops", "threads", "first_step", "attempt"), 0)
    records = [
        StartRecord(at_ns=100 * S, start_ns=[2 * S, 3 * S], peak_source="", device="cpu", packages={}, **start, **numbers),
        step(0, 102, role="warmup"),
        step(1, 103),
        CheckpointRecord(action="save", status="ok", step=2, attempt=0, ns=[S // 2, S // 4], bytes=9),
        step(2, 105, status="diverged", loss=None),
        EventRecord(event="failure", attempt=0, at_ns=106 * S, detail="rank 1 died", ranks=[1]),
        EndRecord(attempt=0, why="diverged", next_step=3, state_sha256="", at_ns=107 * S),
    ]
    trace, said = drawn(tmp_path / "run", {"kind": "training", "config": {}}, records)
    assert "3 of 3 steps" in said
    first, *parts = [one for one in trace.slices if one.track == ("ranks", "rank 0") and one.start_ns < 102 * S]
    assert (first.name, first.start_ns, first.end_ns) == ("step 0 (warmup)", 101 * S, 102 * S)
    lengths = [(one.name, (one.end_ns - one.start_ns) / S) for one in parts]
    assert lengths == [("data", 0.1), ("forward", 0.2), ("backward", 0.5), ("optimizer", 0.2)]
    assert sum(one.track == ("ranks", "rank 1") and not one.depth for one in trace.slices) == 3
    assert trace.counters["loss"] == [(102 * S, 2.0), (103 * S, 1.0)]
    assert trace.counters["tokens/s"][0] == (102 * S, 512.0)
    saved = next(one for one in trace.slices if one.track == ("checkpoints",))
    assert (saved.name, saved.start_ns, saved.end_ns) == ("save before step 2", 103 * S, 103 * S + S // 2)
    marks = {(track, name): (at_ns, facts) for track, name, at_ns, facts in trace.instants}
    assert marks[("run",), "failure"] == (106 * S, {"detail": "rank 1 died", "ranks": "1"})
    assert (("errors",), "diverged") in marks


def test_the_runs_of_a_campaign_are_slices(tmp_path):
    records = [CampaignRecord(engine="vllm", scenario="chat", load="4/s", repeat=place, wall_s=2.5) for place in (1, 2)]
    trace, _ = drawn(tmp_path / "run", {"kind": "campaign", "config": {}}, records)
    assert [(one.track, one.start_ns / S, one.end_ns / S) for one in trace.slices] == [
        (("engines", "vllm"), 0, 2.5),
        (("engines", "vllm"), 2.5, 5),
    ]


def test_what_keeps_no_times_is_refused_in_a_line(tmp_path):
    for run in ({"kind": "capacity"}, {"kind": "training", "config": {"study": {}}}):
        with pytest.raises(UserError, match="has no timeline of its own"):
            drawn(tmp_path / run["kind"], run, [])


def test_bmp_export_takes_a_run_of_any_suite(tmp_path):
    run, rows = run_and_records()
    drawn(tmp_path / "run", run, rows)
    (tmp_path / "run" / NAME).unlink()
    ended = bmp("export", str(tmp_path / "run"), "--perfetto", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert f"{tmp_path / 'run' / NAME} ({len(rows)} of {len(rows)} cases" in ended.stdout
    assert Trace(tmp_path / "run" / NAME).slices
    refused = bmp("export", str(tmp_path / "run"), "--csv", cwd=tmp_path)
    assert refused.returncode == 2


def test_serve_bench_writes_it_at_the_end(tmp_path):
    ended = bmp(
        *("serve-bench", "--engine", "reference", "--scenario", "smoke", "--num-prompts", "12", "--request-rate", "50"),
        *("--perfetto", "--no-report", "--runs-dir", str(tmp_path)),
        cwd=tmp_path,
    )
    folder = next(tmp_path.glob("*-llm-*"))
    assert "(12 of 12 requests)" in " ".join(ended.stdout.split())
    trace, run = Trace(folder / NAME), json.loads((folder / "run.json").read_text())
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    requests = [one for one in trace.slices if one.category == "request"]
    assert sorted(one.start_ns - run["clock_origin_ns"] for one in requests) == sorted(one["planned_ns"] for one in records)
    wall_s = run["clock_origin_unix_ns"] / S - datetime.fromisoformat(run["started_at"]).timestamp()
    assert -0.001 <= wall_s < 60
