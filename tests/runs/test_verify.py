"""verify: a run as it was left has no finding; any flipped byte has one."""

from __future__ import annotations

import json

import pytest

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.runs.checksums import check_checksums, write_checksums
from bytemlperf_llm.runs.folder import write_json
from bytemlperf_llm.runs.summarise import summarise_folder, write_summary
from bytemlperf_llm.runs.verify import verify_run
from tests.runs.made_run import change_record, made_run

FILES = ("records.jsonl", "run.json", "summary.json", "checksums.json")


@pytest.fixture
def folder(tmp_path):
    return made_run(tmp_path / "run")


def test_a_run_as_it_was_left_is_well(folder):
    assert verify_run(folder) == ([], [], 4)


def _unseen_flips(folder, step, names=FILES, quick=None):
    """(file, offset) of every flipped byte that verify doesn't find; `quick` is a part of verify that is asked first."""
    unseen = []
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        for offset in range(0, len(whole), step):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ (1 << offset % 8)]) + whole[offset + 1 :])
            if not (quick and quick(folder)) and not verify_run(folder).findings:
                unseen.append((name, offset))
        path.write_bytes(whole)
    return unseen


def test_a_flipped_byte_is_found(folder):
    assert _unseen_flips(folder, 61) == []


@pytest.mark.slow
def test_a_flipped_byte_is_found_at_every_offset(folder, monkeypatch):
    assert _unseen_flips(folder, 1, ("records.jsonl", "run.json", "checksums.json"), quick=check_checksums) == []
    computed = summarise_folder(folder)  # a flip in summary.json doesn't change what it's computed from
    monkeypatch.setattr("bytemlperf_llm.runs.verify.summarise_folder", lambda _: computed)
    monkeypatch.setattr("bytemlperf_llm.runs.verify._against_schedule", lambda *_: [])
    monkeypatch.setattr("bytemlperf_llm.runs.verify._check_description", lambda *_: [])
    assert _unseen_flips(folder, 1, ("summary.json",)) == []


def test_a_load_in_run_json_that_the_records_do_not_give_is_found(folder):
    run = json.loads((folder / "run.json").read_text())
    run["end"]["load"]["lateness"]["max"] += 1
    write_json(folder / "run.json", run)
    write_checksums(folder)
    (finding,) = verify_run(folder).findings
    assert finding.startswith("run.json: end.load.lateness.max is ")


def test_a_cut_log_is_found_at_any_length(folder):
    whole = (folder / "records.jsonl").read_bytes()
    for length in range(0, len(whole), 37):
        (folder / "records.jsonl").write_bytes(whole[:length])
        assert verify_run(folder).findings


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
    assert any(finding in text for text in verify_run(folder).findings), verify_run(folder).findings


def test_a_record_that_was_taken_out_is_found(folder):
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:-1]))
    write_checksums(folder)
    assert any("outcomes.dropped is 0, the records give 1" in text for text in verify_run(folder).findings)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda run: run.update(seed=1), "schedule hash"),
        (lambda run: run["config"]["scenario"].update(num_requests=5), "4 requests, its configuration makes 5"),
        (lambda run: run["facts"].update(requested_rate=50.0), "facts say requested_rate 50.0, its configuration 100.0"),
        (lambda run: run["facts"].update(burstiness=0), "burstiness"),
        (lambda run: run.update(resumed=7), "resumed parts"),
        (lambda run: run.update(engine=None), "run.json is damaged"),
        (lambda run: run.update(kind="micro"), "run of kind 'micro'"),
        (lambda run: run.update(facts=None), "run.json is damaged"),
        (lambda run: run.update(format_version=99), "format version 99"),
    ],
)
def test_a_forged_description_is_found_even_with_new_checksums_and_summary(folder, change, finding):
    run = json.loads((folder / "run.json").read_text())
    change(run)
    write_json(folder / "run.json", run)
    write_checksums(folder)
    assert any(finding in text for text in verify_run(folder).findings), verify_run(folder).findings


def test_a_forged_summary_is_named_by_its_place(folder):
    summary = json.loads((folder / "summary.json").read_text())
    summary["metrics"]["ttft"]["mean"] = 1.0
    summary["flattery"] = "great"
    write_json(folder / "summary.json", summary)
    findings = verify_run(folder).findings
    assert any(text.startswith("summary.json: metrics.ttft.mean is 1.0, the records give 502") for text in findings), findings
    assert 'summary.json: flattery is "great", the records give absent' in findings


def test_other_blanks_in_a_summary_are_said(folder):
    path = folder / "summary.json"
    path.write_text(path.read_text().replace("\n", "\n "))
    assert verify_run(folder).findings == ["summary.json is not written as the program writes it"]


def test_a_killed_run_says_that_it_has_no_checksums(tmp_path):
    folder = made_run(tmp_path / "run", records=3)
    findings = verify_run(folder).findings
    assert any("no checksums.json: the run was killed" in text for text in findings)
    assert any("no summary.json" in text for text in findings)
    write_summary(folder, summarise_folder(folder))
    assert len(verify_run(folder).findings) == 1


def test_added_and_missing_logs_are_found(folder):
    (folder / "records-7.jsonl").write_bytes(b"")
    assert "records-7.jsonl is not in checksums.json: it was added after the run" in verify_run(folder).findings
    (folder / "records-7.jsonl").unlink()
    (folder / "records.jsonl").unlink()
    assert "records.jsonl is missing" in verify_run(folder).findings


def test_prompts_that_are_gone_are_said_and_are_no_damage(tmp_path):
    place = tmp_path / "scenario"
    place.mkdir()
    (place / "own.jsonl").write_text('{"prompt": "hello"}\n' * 9)
    (place / "own.yaml").write_text(
        "name: own\ndescription: mine\nprompts: {files: [own.jsonl]}\noutput_tokens: {distribution: constant, value: 2}\n"
        "arrival: {process: poisson, rate: 10}\nnum_requests: 4\n"
    )
    folder = made_run(tmp_path / "run", scenario=str(place / "own.yaml"))
    assert verify_run(folder) == ([], [], 4)
    (place / "own.jsonl").unlink()
    verified = verify_run(folder)
    assert verified.findings == []
    assert "own.jsonl" in verified.unchecked[0]


def test_a_folder_that_is_no_run_is_bad_input(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        verify_run(tmp_path)


def test_many_findings_of_one_kind_are_counted(tmp_path):
    folder = made_run(tmp_path / "run", requests=40)
    text = (folder / "records.jsonl").read_text().replace('"max_tokens":', '"max_tokens":1')
    (folder / "records.jsonl").write_text(text)
    assert "… and 20 more like these" in verify_run(folder).findings
