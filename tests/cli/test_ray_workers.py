"""Load workers on a real Ray cluster, of one node on the loopback, started and ended here."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bytemlperf.runs.files import record_logs
from engines.reference.server import ReferenceServer
from tests.cli.helpers import CLOSED_SCENARIO, QUICK, bmp, run_folder, start, wait_for_records
from tests.cli.test_recount import serving, tokenizer_folder
from tests.runs.reading import read_records, records_of

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
CANARY = "sk-canary-7f3a9d2e51"
RAN = (0, 1)  # a machine that is busy with something else may make a run invalid


class Cluster:
    """A head node with two CPUs. Its token is its own: nothing is kept at home."""

    def __init__(self, place: Path) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self.sessions = place / "r"  # short: Ray makes sockets below it, whose paths are limited
        (place / "token").write_text(secrets.token_hex(32))
        self.env = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(place / "token")}
        words = ("start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", self.address.rpartition(":")[2])
        words += ("--num-cpus", "2", "--include-dashboard", "false", "--object-store-memory", "100000000", "--temp-dir", str(self.sessions))
        program = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *words]
        output = (place / "ray.txt").open("w")
        self.process = subprocess.Popen(program, env=os.environ | self.env, stdout=output, stderr=output, start_new_session=True)
        output.close()

    def wait(self, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            logs = self.sessions.glob("session_latest/logs/raylet.out")
            if any("Raylet" in path.read_text(errors="replace") for path in logs):
                return
            time.sleep(0.2)
        raise AssertionError(f"no Ray cluster; exit status {self.process.poll()}")

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        for number in (signal.SIGTERM, signal.SIGKILL):  # what it left, all in its own process group
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return
            time.sleep(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster():
    import shutil
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    cluster = Cluster(place)
    try:
        cluster.wait()
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(place, ignore_errors=True)


def json_of(folder, name):
    return json.loads((folder / name).read_text())


def test_two_actors_share_a_run_and_its_secrets_stay(cluster, tmp_path):
    async def main():
        async with ReferenceServer({"ttft_ms": "5", "itl_ms": "1", "require_key_env": "WORKERS_TEST_KEY"}) as server:
            words = ("serve-bench", "--engine", "openai", "--base-url", server.url, "--scenario", "smoke", "--num-warmups", "0")
            words += ("--request-rate", "50", "--num-prompts", "150", "--ray", cluster.address, "--api-key-file", str(tmp_path / "key"))
            return await asyncio.to_thread(bmp, *words, "--header", f"X-Team: {CANARY}-2", cwd=tmp_path / "out", env=cluster.env)

    (tmp_path / "out").mkdir()
    (tmp_path / "key").write_text(CANARY)
    os.environ["WORKERS_TEST_KEY"] = CANARY
    try:
        ended = asyncio.run(main())
    finally:
        del os.environ["WORKERS_TEST_KEY"]
    assert ended.returncode in RAN, ended.stderr
    folder = run_folder(ended.stdout, tmp_path / "out")
    run, summary = json_of(folder, "run.json"), json_of(folder, "summary.json")
    assert sorted(record.index for record in read_records(folder)) == list(range(150))
    assert all(record.worker == record.index % 2 for record in read_records(folder))
    assert summary["outcomes"]["ok"] == summary["scheduled"] == 150
    assert [worker["issued_requests"] for worker in run["workers"]] == [75, 75]
    for worker in run["workers"]:
        assert worker["host"] == socket.gethostname()
        assert worker["same_clock"], "driver and node are one machine"
        assert abs(worker["clock_before"]["offset_ns"]) <= worker["clock_before"]["uncertainty_ns"]
        assert worker["clock_after"]["uncertainty_ns"] > 0
    assert ended.stderr.count("its clock is at ") == 2
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0
    assert CANARY not in ended.stdout + ended.stderr
    for root in (tmp_path / "out", cluster.sessions):
        for path in root.rglob("*"):
            assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_the_schedule_is_that_of_one_process(cluster, tmp_path):
    words = (*QUICK, "--request-rate", "100", "--num-prompts", "40", "--quiet")
    folders = []
    for more in ((), ("--ray", cluster.address, "--workers", "1")):
        ended = bmp(*words, *more, cwd=tmp_path, env=cluster.env)
        assert ended.returncode in RAN, ended.stderr
        folders.append(run_folder(ended.stdout, tmp_path))
    alone, actor = folders
    assert json_of(alone, "run.json")["schedule_sha256"] == json_of(actor, "run.json")["schedule_sha256"]
    assert [path.name for path in record_logs(actor)] == ["records-0.jsonl"]
    planned = [{record.index: record.planned_ns for record in read_records(folder)} for folder in folders]
    assert planned[0] == planned[1]


def test_actors_count_their_answers_again(cluster, tmp_path):
    """With the tokenizer of the served model, each actor a sample of its own answers."""
    tokenizer = tokenizer_folder()
    with serving(tokenizer, lambda count: count - 1) as url:  # a server that tells one token less than it sends
        words = (
            "serve-bench",
            "--engine",
            "openai",
            "--base-url",
            url,
            "--scenario",
            CLOSED_SCENARIO,
            "--num-warmups",
            "0",
            "--ray",
            cluster.address,
        )
        words += ("--max-concurrency", "2", "--num-prompts", "30", "--output-len", "40", "--tokenizer", str(tokenizer))
        ended = bmp(*words, cwd=tmp_path, env=cluster.env)
    assert ended.returncode in RAN, ended.stderr
    folder = run_folder(ended.stdout, tmp_path)
    recount = json_of(folder, "summary.json")["tokens"]["recount"]
    assert len(json_of(folder, "run.json")["workers"]) == 2
    assert (recount["answers"], recount["usage_tokens"], recount["recounted_tokens"]) == (30, 30 * 39, 30 * 40)
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0


def test_an_actor_that_dies_takes_only_its_own_requests(cluster, tmp_path):
    words = (*QUICK, "--request-rate", "50", "--num-prompts", "500", "--workers", "2", "--ray", cluster.address)
    process = start(*words, cwd=tmp_path, env=cluster.env)
    folder = wait_for_records(tmp_path, 60, process, timeout_s=120)
    relay = _relays(cluster)[0]
    kept = {path.name: path.read_bytes() for path in folder.glob("records-*.jsonl")}
    os.kill(relay, signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    summary = json_of(folder, "summary.json")
    by_worker = [{record.index for record in records_of(folder / f"records-{worker}.jsonl")} for worker in (0, 1)]
    lost = next(worker for worker in (0, 1) if len(by_worker[worker]) < 250)
    assert by_worker[1 - lost] == set(range(1 - lost, 500, 2))
    assert all((folder / name).read_bytes().startswith(content) for name, content in kept.items()), "what had come stays"
    assert process.returncode == 1
    assert summary["verdict"] == "invalid"
    assert summary["reasons"][0].startswith(f"worker {lost} was lost with its Ray actor")
    assert sum(summary["outcomes"].values()) == 500
    assert "Traceback" not in stderr
    deadline = time.monotonic() + 30
    while _relays(cluster) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _relays(cluster), "no member outlives the run"


def test_an_interrupt_drains_the_actors(cluster, tmp_path):
    process = start(*QUICK, "--request-rate", "50", "--num-prompts", "100000", "--ray", cluster.address, cwd=tmp_path, env=cluster.env)
    folder = wait_for_records(tmp_path, 40, process, timeout_s=120)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    summary, run = json_of(folder, "summary.json"), json_of(folder, "run.json")
    assert "Traceback" not in stderr
    assert run["end"]["stopped_by_user"]
    assert summary["outcomes"]["in_flight"] == 0
    assert summary["outcomes"]["ok"] == run["end"]["issued_requests"] == len(list(read_records(folder)))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--workers", "9"), "the Ray cluster has 2 CPUs for 9 workers"),
        (("--engine-option", "itl_ms=no"), "itl_ms"),
    ],
)
def test_bad_input_is_one_line(cluster, tmp_path, words, expected):
    ended = bmp(
        *QUICK, *words, "--request-rate", "10", "--num-prompts", "20", "--quiet", "--ray", cluster.address, cwd=tmp_path, env=cluster.env
    )
    assert ended.returncode == 2
    assert expected in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def _relays(cluster):
    """Pids of the actors that hold a member, told by whose cluster they belong to."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            member = b"loadgen.member" in (path / "cmdline").read_bytes()
            environment = (path / "environ").read_bytes() if member else b""
        except OSError:
            continue
        if member and cluster.env["RAY_AUTH_TOKEN_PATH"].encode() in environment:
            found.append(int(next(line for line in (path / "status").read_text().splitlines() if line.startswith("PPid")).split()[1]))
    return found


def test_a_killed_run_goes_on_with_its_actors(cluster, tmp_path):
    words = (*QUICK, "--request-rate", "50", "--num-prompts", "200", "--ray", cluster.address, "--workers", "2")
    process = start(*words, cwd=tmp_path, env=cluster.env)
    folder = wait_for_records(tmp_path, 40, process)
    process.kill()
    process.communicate()
    before = len(list(read_records(folder)))
    ended = bmp("resume", str(folder), "--trust", cwd=tmp_path, env=cluster.env)
    assert ended.returncode in RAN, ended.stderr
    assert [path.name for path in record_logs(folder)] == [f"records-{log}.jsonl" for log in range(4)]
    assert sorted(record.index for record in read_records(folder)) == list(range(200))
    part = json_of(folder, "run.json")["resumed"][0]
    assert (part["logs"], part["records_before"]) == (["records-2.jsonl", "records-3.jsonl"], before)
    assert [worker["log"] for worker in part["workers"]] == part["logs"]
    verified = bmp("verify", str(folder), cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout
