"""A sweep over real processes and a vendor's backend that crashes, hangs, hoards memory and answers wrongly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import verify_suite
from tests.general_perf.vendor import install, relu_card

BMP = [sys.executable, "-c", "from bytemlperf.app import main; main()", "general"]
ROOT = Path(__file__).resolve().parents[2]
"""So that the child runs this very copy."""
QUICK = ["--backend", "vendor", "--iterations", "3", "--memory-limit", "4GiB"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vendor")
    install(folder)
    relu_card(folder)
    return folder


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(ROOT)]), "OMP_NUM_THREADS": "1"}


def bmp(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BMP, *arguments], capture_output=True, text=True, env=environment(place), cwd=place, timeout=120, check=False)


def only_run(runs: Path) -> Path:
    (folder,) = runs.iterdir()
    return folder


def rows(folder: Path) -> dict[str, dict]:
    summary = json.loads((folder / "summary.json").read_text())
    return {row["job"]: row for row in summary["rows"]}


def test_a_vendors_backend_needs_one_entry_point(place, tmp_path):
    done = bmp(place, "relu.yaml", *QUICK, "--runs-dir", str(tmp_path), "--instances", "2", "--loop", "closed", "--loop", "open")
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path)
    row = rows(folder)["relu/vendor/fp32"]
    assert row["status"] == "ok"
    assert row["numerics_passed"] is True
    assert row["graph_share"] == 1.0
    assert row["artefact_bytes"] == 1000
    records = list(RunRecords[dict](folder))
    points = [(each["batch_size"], each["instances"], each["loop"]) for each in records if each["stage"] == "performance"]
    assert points == [(1, 2, "closed"), (1, 2, "open"), (4, 2, "closed"), (4, 2, "open")]
    opened = next(each for each in records if each["stage"] == "performance" and each["loop"] == "open")
    assert opened["planned"] == len(opened["latency_ns"]) + opened["dropped"]
    usability = records[-1]["usability"]
    assert usability["packages"] == 1
    assert usability["install_bytes"] > 1000
    assert usability["adapter_lines"] > 20
    assert verify_suite(folder) == ([], [], len(records))
    llm = [sys.executable, "-c", "from bytemlperf_llm.cli import main; main()", "verify", str(folder)]
    checked = subprocess.run(llm, capture_output=True, text=True, env=environment(place), check=False)
    assert (
        checked.returncode,
        f"{len(records)} records, and all that was computed from them: unchanged since the run" in checked.stdout,
    ) == (0, True)
    assert not (folder / "work").exists()  # nothing large stays
    assert any(line in ("VALID", "NOISY", "THIN") for line in done.stdout.splitlines())  # by how busy the machine is
    peaks = [each.get("peak_host_bytes") or 0 for each in records]
    assert records[-1]["peak_tree_bytes"] >= max(peaks) > 0  # also of what was held between two looks at the processes


def test_pruning_is_a_row_that_says_so(place, tmp_path):
    """A file is refused; a torch model's result declares what was measured in its weights."""
    done = bmp(place, "relu.yaml", *QUICK, "--sparsity", "2:4", "--runs-dir", str(tmp_path / "file"))
    assert rows(only_run(tmp_path / "file"))["relu/vendor/fp32"]["error_class"] == "unsupported_format", done.stderr
    flags = ["--size", "small", "--backend", "torch-eager", "--iterations", "2", "--batch-size", "1", "--bytemlperf-report"]
    done = bmp(place, "vit", *flags, "--sparsity", "2:4", "--runs-dir", str(tmp_path / "torch"))
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path / "torch")
    assert rows(folder)["vit@small/torch-eager/fp32"]["sparsity"] == "2:4"
    assert "the weights are sparse, 2:4" in done.stdout
    compiled = next(each for each in RunRecords[dict](folder) if each["stage"] == "compile")
    assert "linear layers by torch.ao.pruning.WeightNormSparsifier" in compiled["sparsified"]
    assert compiled["weights"].startswith("random weights, seed 0; pruned to 2:4, ")
    (report,) = folder.glob("bytemlperf/*/*/result-*.json")
    assert json.loads(report.read_text())["Bmp"]["Sparsity"] == "2:4"
    done = bmp(place, "vit", *flags, "--sparsity", "4:2", "--runs-dir", str(tmp_path / "none"))
    assert (done.returncode, "neither a pattern nor a share" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("do", "error_class", "reason"),
    [
        ("abort", "crashed", "in compile: killed by SIGABRT"),
        ("exit", "crashed", "in compile: the licence server is away"),
        ("raise", "unsupported_operator", "operator Foo is not implemented"),
        ("hang", "time_limit", "in compile after 6 s"),
        ("hoard", "out_of_memory", "over the limit of 1.0 GiB"),
        ("die-later", "crashed", "in performance at batch 1: killed by SIGABRT"),
        ("kill", "crashed", "in compile: killed by SIGKILL"),
    ],
)
def test_what_ends_the_process_is_a_row(place, tmp_path, do, error_class, reason):
    limits = {"hang": ["--time-limit", "6"], "hoard": ["--memory-limit", "1GiB"]}.get(do, [])
    stages = ["--stage", "performance"]  # no reference: one process less
    done = bmp(place, "relu.yaml", *QUICK, *limits, *stages, "--backend-option", f"do={do}", "--runs-dir", str(tmp_path))
    row = rows(only_run(tmp_path))["relu/vendor/fp32"]
    assert (row["status"], row["error_class"]) == ("failed", error_class)
    assert reason in row["reason"]
    assert row["fix"]
    assert row["reason"] in done.stdout
    assert done.returncode == 1
    assert "\nINVALID\n" in done.stdout  # the only row failed, also where it had compiled
    assert "Traceback" not in done.stderr
    log = only_run(tmp_path) / "logs" / "relu-vendor-fp32.log"
    if "log" in row["fix"]:  # a fix that sends somebody to a log sends him to one that is there
        assert log.stat().st_size
    if "ABRT" in reason:
        assert "vendor_backend.py" in log.read_text()  # where it crashed


@pytest.mark.parametrize(("do", "nonfinite"), [("wrong", 0), ("nan", 32)])
def test_wrong_answers_fail_the_numerics(place, tmp_path, do, nonfinite):
    stages = ["--stage", "numerics", "--batch-size", "4"]
    done = bmp(place, "relu.yaml", *QUICK, *stages, "--backend-option", f"do={do}", "--runs-dir", str(tmp_path))
    row = rows(only_run(tmp_path))["relu/vendor/fp32"]
    assert row["numerics_passed"] is False
    assert row["nonfinite"] == nonfinite
    assert "outputs are not within the tolerance" in done.stdout


def test_a_killed_sweep_goes_on_where_it_was(place, tmp_path):
    relu_card(place, "other")
    command = ["relu.yaml", "other.yaml", *QUICK, "--stage", "performance", "--runs-dir", str(tmp_path)]
    sweep = subprocess.Popen([*BMP, *command], env=environment(place), cwd=place, stderr=subprocess.PIPE, text=True)
    assert sweep.stderr is not None
    for line in sweep.stderr:
        if line.startswith("[2/2]"):  # the first job is done, the second has begun
            break
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    sweep.stderr.close()
    folder = only_run(tmp_path)
    before = [each for each in RunRecords[dict](folder) if each["job"].startswith("relu/")]
    with (folder / "records.jsonl").open("ab") as log:
        log.write(b'{"job":"other/vendor/fp32","att')  # a torn tail, as power loss leaves it
    done = bmp(place, "resume", str(folder))
    assert done.returncode == 0, done.stderr
    after = list(RunRecords[dict](folder))
    assert [each for each in after if each["job"].startswith("relu/")] == before  # what was done is not done again
    assert {row["status"] for row in rows(folder).values()} == {"ok"}
    assert verify_suite(folder)[0] == []


def test_a_run_of_another_kind_is_not_resumed_and_not_touched(place, tmp_path):
    (tmp_path / "records.jsonl").write_bytes(b'{"torn')
    (tmp_path / "run.json").write_text(json.dumps({"format_version": 1, "kind": "micro", "config": {}}))
    (tmp_path / "summary.json").write_text("{}")
    held = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    done = bmp(place, "resume", str(tmp_path))
    assert (done.returncode, "is a run of kind micro; resume it with its own suite" in done.stderr) == (2, True), done.stderr
    (tmp_path / "run.json").write_text(held["run.json"].decode().replace("micro", "general"))
    done = bmp(place, "resume", str(tmp_path))
    assert (done.returncode, "its plan is of another version; start a new run" in done.stderr) == (2, True), done.stderr
    assert (tmp_path / "records.jsonl").read_bytes() == held["records.jsonl"]
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("port", ["taken", "-1", "99999999999999999999"])
def test_a_port_that_can_not_be_had_leaves_no_run_behind(place, tmp_path, port):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1]) if port == "taken" else port
        done = bmp(place, "relu.yaml", *QUICK, "--prometheus-port", number, "--runs-dir", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_job_that_was_cut_short_counts_once(place, tmp_path):
    done = bmp(place, "relu.yaml", *QUICK, "--stage", "performance", "--runs-dir", str(tmp_path))
    assert done.returncode == 0
    folder = only_run(tmp_path)
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:-1]))  # as if killed before the job's end
    assert bmp(place, "resume", str(folder)).returncode == 0
    attempts = [each["attempt"] for each in RunRecords[dict](folder)]
    assert set(attempts) == {1, 2}
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert len([name for name in metrics if name.endswith("latency")]) == 2


def test_live_metrics_tell_what_is_done_and_how_long_calls_took(place, tmp_path):
    relu_card(place, "second")
    command = [*BMP, "relu.yaml", "second.yaml", *QUICK, "--stage", "performance", "--prometheus-port", "0", "--runs-dir", str(tmp_path)]
    sweep = subprocess.Popen(command, env=environment(place), cwd=place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert sweep.stderr is not None
    address = next(line.split()[2] for line in sweep.stderr if line.startswith("metrics at"))
    assert address.startswith("http://127.0.0.1:")
    next(line for line in sweep.stderr if line.startswith("[1/2]"))
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    sweep.communicate(timeout=60)
    assert sweep.returncode == 0
    assert 'bmp_general_jobs_total{status="ok"} 1.0' in text
    assert "bmp_general_jobs_planned 2.0" in text
    assert "bmp_general_inference_latency_seconds_count 6.0" in text  # two batch sizes, three calls each
    assert "bmp_general_compile_duration_seconds_count 1.0" in text


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_leaves_no_process_behind(place, tmp_path, number, status):
    command = [*BMP, "relu.yaml", *QUICK, "--stage", "performance", "--backend-option", "do=hang", "--runs-dir", str(tmp_path)]
    sweep = subprocess.Popen(command, env=environment(place), cwd=place, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (workers := _workers_of(sweep.pid)):
        assert sweep.poll() is None
        time.sleep(0.02)
    sweep.send_signal(number)
    _, said = sweep.communicate(timeout=30)
    assert sweep.returncode == status
    assert "Traceback" not in said
    until = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < until, "the worker lives on"
        time.sleep(0.05)
    if number == signal.SIGKILL:
        return
    folder = only_run(tmp_path)
    run = json.loads((folder / "run.json").read_text())
    assert run["end"]["stopped_by_user"] is True
    assert f"interrupted: resume with: bmp general resume {folder}" in said


def _workers_of(pid: int) -> list[int]:
    """Children of the sweep that are its workers (at its start it runs git as well)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"general_perf.job.worker" in _command_of(child)]


def _command_of(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return b""
