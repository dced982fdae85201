"""bmp submit: each rule broken once, on run folders that the suites' own writer made."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf.submit.check import check_submission
from bytemlperf.submit.rules import MIN_MODELS, PUBLISHED_SIZE, REGULAR_MODELS, locked
from general_perf.card import Architecture, zoo
from general_perf.job.records import Job, SparsityRecord, job_id
from general_perf.results.kind import KIND
from tests.submit.made import DECLARATION, accepted, general_run, submission  # noqa: F401

COMMAND = [sys.executable, "-c", "from bytemlperf.app import main; main()", "submit"]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=os.environ | {"NO_COLOR": "1"}, timeout=120, check=False
    )


def problems(folder: Path) -> list[str]:
    return [
        f"{finding.rule}: {finding.subject}: {finding.text}" for finding in check_submission(folder).findings if finding.level == "problem"
    ]


def test_the_regular_models_are_the_zoos():
    """A model that is trained here on a small data set is regular in kind, and no stand-in for ByteMLPerf's."""
    regular = {name for name, card in zoo().items() if card.model_class == "regular" and isinstance(card.source, Architecture)}
    assert set(REGULAR_MODELS) == regular


def test_what_the_rules_read_is_what_a_sweep_writes():
    """Names of fields, and how a job's name is made: the rules read run.json and records, not the suite's code."""
    assert {"id", "size"} <= set(Job.__struct_fields__)
    assert {"job", "stage", "status", "reason", "sparsity"} <= {
        *SparsityRecord.__struct_fields__,
        SparsityRecord.__struct_config__.tag_field,
    }
    run = {"config": {"plan": [{"id": job_id("bert", size, "onnxruntime", "bf16"), "size": size} for size in (PUBLISHED_SIZE, "small")]}}
    assert [(job.model, job.precision, job.size) for job in KIND.jobs(run, [])] == [
        ("bert", "bf16", PUBLISHED_SIZE),
        ("bert", "bf16", "small"),
    ]


def test_a_whole_submission_is_accepted(accepted: Path):  # noqa: F811
    assert problems(accepted) == []
    done = run("check", accepted, cwd=accepted.parent)
    assert done.returncode == 0, done.stdout
    assert "ACCEPTED" in done.stdout
    assert f"{len(REGULAR_MODELS)} models, all {len(REGULAR_MODELS)} regular ones" in done.stdout


def test_four_models_are_too_few_and_each_missing_one_is_named(tmp_path: Path):
    found = problems(submission(tmp_path / "s", models=REGULAR_MODELS[:4]))
    assert f"models: runs/: 4 models were measured, a submission has at least {MIN_MODELS}" in found
    assert [each.split(": ")[1] for each in found[1:]] == list(REGULAR_MODELS[4:])


def test_five_models_without_a_regular_one_are_not_enough(tmp_path: Path):
    others = [*REGULAR_MODELS[1:], "whisper-encoder", "unet"]
    assert problems(submission(tmp_path / "s", models=others)) == [
        f"models: {REGULAR_MODELS[0]}: the regular model {REGULAR_MODELS[0]} is not there"
    ]


def test_a_smaller_size_is_not_the_model(tmp_path: Path):
    found = problems(submission(tmp_path / "s", size="small"))
    assert any("the regular model bert was measured only at a smaller size" in each for each in found)


def test_a_failed_model_does_not_count(tmp_path: Path):
    folder = submission(tmp_path / "s", models=REGULAR_MODELS[1:])
    general_run(folder / "runs", REGULAR_MODELS[:1], status="failed", reason="out of memory")
    assert f"models: {REGULAR_MODELS[0]}: the regular model {REGULAR_MODELS[0]} failed: out of memory" in problems(folder)


def test_one_changed_byte_is_found(accepted: Path):  # noqa: F811
    (log,) = accepted.glob("runs/*/records.jsonl")
    log.write_bytes(log.read_bytes().replace(b"1001000", b"1001001", 1))
    assert any(each.startswith("verify: ") for each in problems(accepted))


def test_a_run_that_was_stopped_or_killed_is_not_complete(tmp_path: Path):
    folder = submission(tmp_path / "s", stop=True)
    assert any("stopped by the user" in each for each in problems(folder))
    (path,) = folder.glob("runs/*/run.json")
    description = json.loads(path.read_text())
    del description["end"]
    path.write_text(json.dumps(description))
    assert any("it was killed" in each for each in problems(folder))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": None}, "holds no seed"),
        ({"command": []}, "holds no command"),
        ({"environment": {"packages": {}}}, "holds no package versions"),
        ({"environment": {"packages": {"pytest": "0.1"}}}, "pytest 0.1 ran, the lock has"),
        ({"environment": {"packages": {"numpy": "9"}}}, "the lock doesn't pin numpy"),
    ],
)
def test_what_makes_a_run_again_must_be_there(accepted: Path, change: dict, says: str):  # noqa: F811
    (path,) = accepted.glob("runs/*/run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert any(says in each for each in problems(accepted)), problems(accepted)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("precisions: [fp32]", "precisions: [fp32, bf16]", "bf16 is declared and never ran"),
        ("precisions: [fp32]", "precisions: [bf16]", "fp32 ran and isn't declared"),
        ("sparsity: none", 'sparsity: "2:4"', "ran with sparsity none, declared is 2:4"),
        ("suites: [general]", "suites: [general, llm]", "no run of the suite llm"),
        ("suites: [general]", "suites: [llm]", "which is not listed under suites"),
        ("install.sh", "other.sh", "declared but missing"),
    ],
)
def test_the_declaration_is_held_against_the_runs(tmp_path: Path, old: str, new: str, says: str):
    assert any(says in each for each in problems(submission(tmp_path / "s", DECLARATION.replace(old, new))))


@pytest.mark.parametrize(
    ("ran", "declared", "holds"),
    [("2:4", '"2:4"', True), ("1:32", "32x", True), ("2:4", "32x", False), ("unstructured", "unstructured", True), ("2:4", "none", False)],
)
def test_the_sparsity_that_was_measured_is_the_one_declared(tmp_path: Path, ran: str, declared: str, holds: bool):
    folder = submission(tmp_path / "s", DECLARATION.replace("sparsity: none", f"sparsity: {declared}"), sparsity=ran)
    assert (problems(folder) == []) == holds


def test_a_run_without_a_record_of_its_sparsity(tmp_path: Path):
    found = problems(submission(tmp_path / "s", sparsity=""))
    assert any("has no record of its sparsity" in each for each in found), found


def test_runs_on_another_device_than_declared(accepted: Path):  # noqa: F811
    (path,) = accepted.glob("runs/*/run.json")
    description = json.loads(path.read_text())
    description["environment"]["hardware"]["gpus"] = [{"name": "NVIDIA H100 80GB HBM3"}]
    path.write_text(json.dumps(description))
    assert any("ran on NVIDIA H100 SXM5 80GB, declared is T4" in each for each in problems(accepted))
    general_run(accepted / "runs", REGULAR_MODELS[:1])
    assert any("runs are from several machines" in each for each in problems(accepted))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("  install: install.sh\n", "", "neither image nor install"),
        ("install: install.sh", "image: registry/name:latest", "has no digest"),
        ("lock: requirements.lock", "lock: ../other.lock", "is outside the submission"),
        ("lock: requirements.lock", "lock: /etc/passwd", "is outside the submission"),
        ("sparsity: none", "sparsity: some", "sparsity can't be 'some'"),
        ("sparsity: none\n", "", "sparsity is missing"),
        ("vendor: Example", "vender: Example", "did you mean 'vendor'?"),
    ],
)
def test_a_wrong_declaration_is_one_line(tmp_path: Path, old: str, new: str, says: str):
    with pytest.raises(UserError) as error:
        check_submission(submission(tmp_path / "s", DECLARATION.replace(old, new)))
    assert says in str(error.value)


def test_a_folder_that_is_no_submission(tmp_path: Path):
    for words, says in ((("check", "gone"), "is not a folder"), (("check", "."), "has no submission.yaml")):
        done = run(*words, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
    (tmp_path / "submission.yaml").write_text(DECLARATION)
    assert "holds no run folder" in run("check", ".", cwd=tmp_path).stderr


def test_pack_gives_the_same_bytes_and_they_hold_what_was_checked(accepted: Path, tmp_path: Path):  # noqa: F811
    first, second = tmp_path / "first.tar.gz", tmp_path / "second.tar.gz"
    assert run("pack", accepted, "--out", first, cwd=tmp_path).returncode == 0
    os.utime(accepted / "install.sh", (1, 1))
    (accepted / "secret.txt").write_text("not declared")
    assert run("pack", accepted, "--out", second, cwd=tmp_path).returncode == 0
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "out", filter="data")
    assert not [name for name in names if "secret" in name]
    out = tmp_path / "out/mine"
    sums = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    assert {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in sums} == sums
    assert set(sums) == {name.removeprefix("mine/") for name in names} - {"SHA256SUMS"}
    assert problems(out) == []


def test_nothing_refused_is_packed(tmp_path: Path):
    folder = submission(tmp_path / "s", models=REGULAR_MODELS[:2])
    done = run("pack", folder, "--out", tmp_path / "s.tar.gz", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"REFUSED, \d+ problem", done.stdout)
    assert not (tmp_path / "s.tar.gz").exists()


def test_a_link_in_a_run_is_not_followed(accepted: Path, tmp_path: Path):  # noqa: F811
    (folder,) = accepted.glob("runs/*/")
    (folder / "link").symlink_to("/etc/hostname")
    done = run("pack", accepted, "--out", tmp_path / "s.tar.gz", cwd=tmp_path)
    assert done.returncode == 2
    assert "is a link" in done.stderr


def test_pins():
    text = "# made by us\nTorch==2.9.0  # cpu\nnot_pinned>=1\nnumpy[x]==1.26.4 ; python_version > '3' \\\n    --hash=sha256:00\n"
    assert locked(text) == {"torch": "2.9.0", "numpy": "1.26.4"}
