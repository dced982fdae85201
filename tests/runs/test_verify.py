"""verify: a run as it was left has no finding; any flipped byte has one."""

from __future__ import annotations

import json

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf.report.write import write_report
from bytemlperf.runs.checksums import check_checksums, write_checksums
from bytemlperf.runs.folder import write_json
from bytemlperf.runs.suite import SuiteRun, summarise_suite, verify_suite
from tests.micro.made import run_and_records
from tests.runs.made_run import change_record, made_anew, made_run
from training.results.checks import against_plan
from training.results.records import History, Record

FILES = ("records.jsonl", "run.json", "summary.json", "checksums.json")


@pytest.fixture
def folder(tmp_path):
    return made_run(tmp_path / "run")


def test_a_run_as_it_was_left_is_well(folder):
    assert verify_suite(folder) == ([], [], 4)


def _unseen_flips(folder, step, names=FILES, quick=None):
    """(file, offset) of every flipped byte that verify doesn't find; `quick` is a part of verify that is asked first."""
    unseen = []
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        for offset in range(0, len(whole), step):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ (1 << offset % 8)]) + whole[offset + 1 :])
            if not (quick and quick(folder)) and not verify_suite(folder).findings:
                unseen.append((name, offset))
        path.write_bytes(whole)
    return unseen


def test_a_flipped_byte_is_found(folder):
    assert _unseen_flips(folder, 61) == []


@pytest.mark.slow
def test_a_flipped_byte_is_found_at_every_offset(folder, monkeypatch):
    assert _unseen_flips(folder, 1, ("records.jsonl", "run.json", "checksums.json"), quick=check_checksums) == []
    computed = summarise_suite(folder)  # a flip in summary.json doesn't change what it's computed from
    monkeypatch.setattr("bytemlperf.runs.suite.summarise_suite", lambda *_: computed)
    monkeypatch.setattr("bytemlperf_llm.run.verify._against_schedule", lambda *_: [])
    monkeypatch.setattr("bytemlperf_llm.run.verify._check_description", lambda *_: [])
    assert _unseen_flips(folder, 1, ("summary.json",)) == []


def test_a_load_in_run_json_that_the_records_do_not_give_is_found(folder):
    run = json.loads((folder / "run.json").read_text())
    run["end"]["load"]["lateness"]["max"] += 1
    write_json(folder / "run.json", run)
    write_checksums(folder)
    (finding,) = verify_suite(folder).findings
    assert finding.startswith("run.json: end.load.lateness.max is ")


def test_a_cut_log_is_found_at_any_length(folder):
    whole = (folder / "records.jsonl").read_bytes()
    for length in range(0, len(whole), 37):
        (folder / "records.jsonl").write_bytes(whole[:length])
        assert verify_suite(folder).findings


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"id": "0-00000009"}, "has id 0-00000009, the schedule 0-00000002"),
        ({"planned_ns": 7}, "has planned_ns 7, the schedule"),
        ({"max_tokens": 99}, "has max_tokens 99, the schedule"),
        ({"index": 1}, "request 1 has more than one record"),
        ({"index": 700}, "record of request 700, which the schedule doesn't have"),
        ({"sent_ns": 12345}, "metrics.service_ttft"),
    ],
)
def test_a_forged_record_is_found_even_with_new_checksums(folder, changes, finding):
    change_record(folder, 2, **changes)
    write_checksums(folder)
    assert any(finding in text for text in verify_suite(folder).findings), verify_suite(folder).findings


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"sent_ns": 10**10}, "request 2 had its first byte "),
        ({"first_byte_ns": 10**10}, "ns before it had its first byte"),
        ({"chunk_ns": [3, 2]}, "request 2 had a token "),
        ({"chunk_ns": [10**9, 5 * 10**8]}, "ns before it had a token"),
        ({"end_ns": 1}, "request 2 ended "),
        ({"sent_ns": 0, "first_byte_ns": 0}, "ns before it was due"),
        ({"sent_ns": None}, "has tokens but was never sent"),
        ({"output_tokens": 4000, "tokens_per_chunk": [2000, 2000]}, "has 4000 tokens where "),
        ({"tokens_per_chunk": [2]}, "has 2 stamps for 1 chunks"),
        ({"output_tokens": 3, "usage_tokens": None, "tokens_per_chunk": [1, 1]}, "has 3 tokens, its chunks 2 and its usage None"),
        ({"output_tokens": 0, "usage_tokens": 0, "tokens_per_chunk": [], "chunk_ns": []}, "is ok without a token"),
        ({"finish_reason": "abort"}, "is ok with finish reason abort"),
        ({"streamed_reasoning_tokens": 4_000}, "has 4000 tokens of reasoning among "),
        ({"answer_ns": 1}, "has no chunk at which its reasoning, or its answer after it, began"),
    ],
)
def test_what_cannot_be_is_found_even_when_everything_was_made_anew(folder, changes, finding):
    change_record(folder, 2, **changes)
    made_anew(folder)
    assert any(finding in text for text in verify_suite(folder).findings), verify_suite(folder).findings


def test_a_changed_report_is_found_and_one_made_anew_is_well(folder):
    page = write_report(folder)
    assert verify_suite(folder).findings == []
    page.write_text(page.read_text().replace("valid", "VALID", 1))
    (finding,) = verify_suite(folder).findings
    assert "report.html was changed after the run" in finding
    page.unlink()
    assert verify_suite(folder).findings == ["report.html is missing"]
    write_report(folder)
    assert verify_suite(folder).findings == []


def test_a_suites_rows_are_held_against_its_plan(tmp_path):
    made, records = run_and_records()
    with SuiteRun.begin(tmp_path, "micro", "made", made["config"], command=["bmp", "micro"], seed=0, more={"peaks": made["peaks"]}) as run:
        for record in records:
            run.append(record)
    folder = run.folder
    assert verify_suite(folder)[0] == []

    def findings(change):
        (folder / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in change([dict(each) for each in records])))
        write_checksums(folder)
        write_json(folder / "summary.json", summarise_suite(folder))
        return verify_suite(folder)[0]

    assert findings(lambda rows: [row for row in rows if row["op"] != "softmax"]) == [
        "there is no row of softmax(batch_size=4 dim_size=8 dtype=float32) [torch]"
    ]
    strange = findings(lambda rows: [*rows, rows[0] | {"args": {"M": 1}}])
    assert f"a row of gemm(M=1) [torch] calls itself {records[0]['key']}" in strange
    assert "there is a row of gemm(M=1) [torch], which the plan doesn't have" in strange


def test_steps_are_held_against_their_plan():
    def step(number, **changes):
        times = {name: [1, 1] for name in ("step_ns", "data_ns", "forward_ns", "backward_ns", "optimizer_ns", "peak_bytes", "held_bytes")}
        facts = {"role": "measured", "status": "ok", "wall_ns": 1, "samples": 1, "tokens": 1, "loss": 1.0, "grad_norm": 1.0}
        return {
            "record": "step",
            "step": number,
            "attempt": 0,
            "at_ns": number,
            "learning_rate": 0.1,
            "sync_ns": [1, 1],
            **facts,
            **times,
            **changes,
        }

    end = {"record": "end", "attempt": 0, "why": "steps done", "next_step": 3, "state_sha256": "", "at_ns": 9}
    config = {"steps": 3, "layout": {"world": 2}}

    def found(*steps):
        return list(against_plan(config, History(msgspec.convert([*steps, end], list[Record]))))

    assert found(step(0), step(1), step(2)) == []
    assert found(step(0), step(2)) == [
        "step 2 comes after step 0, 2 ns later",
        "the run ended before step 3, and 2 of 3 steps have a record",
    ]
    assert found(step(0), step(1, at_ns=-4), step(2)) == ["step 1 comes after step 0, -4 ns later"]
    assert found(step(0), step(1), step(2), step(3)) == ["there is a record of step 3, and the plan has 3"]
    assert found(step(0), step(1), step(2, step_ns=[1])) == ["step 2 has the times of 1 ranks, and the plan has 2"]


def test_a_plan_without_end_is_not_walked(folder):
    run = json.loads((folder / "run.json").read_text())
    run["config"]["scenario"]["num_requests"] = 10**12
    write_json(folder / "run.json", run)
    (unchecked,) = verify_suite(folder).unchecked
    assert "its configuration makes some 1e+12 requests, and there are 4 records" in unchecked


def test_a_record_that_was_taken_out_is_found(folder):
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:-1]))
    write_checksums(folder)
    assert any("outcomes.dropped is 0, the records give 1" in text for text in verify_suite(folder).findings)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda run: run.update(seed=1), "schedule hash"),
        (lambda run: run["config"]["scenario"].update(num_requests=5), "4 requests, its configuration makes 5"),
        (lambda run: run["facts"].update(requested_rate=50.0), "facts say requested_rate 50.0, its configuration 100.0"),
        (lambda run: run["facts"].update(burstiness=0), "burstiness"),
        (lambda run: run.update(resumed=7), "resumed parts"),
        (lambda run: run.update(engine=None), "run.json is damaged"),
        (lambda run: run.update(kind="micro"), "can't be checked against the plan"),
        (lambda run: run.update(facts=None), "run.json is damaged"),
        (lambda run: run.update(format_version=99), "format version 99"),
    ],
)
def test_a_forged_description_is_found_even_with_new_checksums_and_summary(folder, change, finding):
    run = json.loads((folder / "run.json").read_text())
    change(run)
    write_json(folder / "run.json", run)
    write_checksums(folder)
    assert any(finding in text for text in verify_suite(folder).findings), verify_suite(folder).findings


def test_a_forged_summary_is_named_by_its_place(folder):
    summary = json.loads((folder / "summary.json").read_text())
    summary["metrics"]["ttft"]["mean"] = 1.0
    summary["flattery"] = "great"
    write_json(folder / "summary.json", summary)
    findings = verify_suite(folder).findings
    assert any(text.startswith("summary.json: metrics.ttft.mean is 1.0, the records give 502") for text in findings), findings
    assert 'summary.json: flattery is "great", the records give absent' in findings


def test_other_blanks_in_a_summary_are_said(folder):
    path = folder / "summary.json"
    path.write_text(path.read_text().replace("\n", "\n "))
    assert verify_suite(folder).findings == ["summary.json is not formatted as this program writes it"]


def test_a_killed_run_says_that_it_has_no_checksums(tmp_path):
    folder = made_run(tmp_path / "run", records=3)
    findings = verify_suite(folder).findings
    assert any("no checksums.json: the run was killed" in text for text in findings)
    assert any("no summary.json" in text for text in findings)
    write_json(folder / "summary.json", summarise_suite(folder))
    assert len(verify_suite(folder).findings) == 1


def test_added_and_missing_logs_are_found(folder):
    (folder / "records-7.jsonl").write_bytes(b"")
    assert "records-7.jsonl is not in checksums.json: it was added after the run" in verify_suite(folder).findings
    (folder / "records-7.jsonl").unlink()
    (folder / "records.jsonl").unlink()
    assert "records.jsonl is missing" in verify_suite(folder).findings


def test_prompts_that_are_gone_are_said_and_are_no_damage(tmp_path):
    place = tmp_path / "scenario"
    place.mkdir()
    (place / "own.jsonl").write_text('{"prompt": "hello"}\n' * 9)
    (place / "own.yaml").write_text(
        "name: own\ndescription: mine\nprompts: {files: [own.jsonl]}\noutput_tokens: {distribution: constant, value: 2}\n"
        "arrival: {process: poisson, rate: 10}\nnum_requests: 4\n"
    )
    folder = made_run(tmp_path / "run", scenario=str(place / "own.yaml"))
    assert verify_suite(folder) == ([], [], 4)
    (place / "own.jsonl").unlink()
    verified = verify_suite(folder)
    assert verified.findings == []
    assert "own.jsonl" in verified.unchecked[0]


def test_a_folder_that_is_no_run_is_bad_input(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        verify_suite(tmp_path)


def test_many_findings_of_one_kind_are_counted(tmp_path):
    folder = made_run(tmp_path / "run", requests=40)
    text = (folder / "records.jsonl").read_text().replace('"max_tokens":', '"max_tokens":1')
    (folder / "records.jsonl").write_text(text)
    assert "… and 20 more like these" in verify_suite(folder).findings
