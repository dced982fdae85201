"""Several load workers as a user runs them: processes of this machine against the reference server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bytemlperf.checked import plain
from bytemlperf.runs.files import record_logs
from engines.reference.server import ReferenceServer
from tests.cli.helpers import CLOSED, QUICK, bmp, run_folder, start, wait_for_records
from tests.runs.reading import read_records, records_of

CANARY = "sk-canary-7f3a9d2e51"
RAN = (0, 1)  # a machine that is busy with something else may make a run invalid
pytestmark = pytest.mark.slow


def run_against_server(*words, cwd, env=None, **server_options):
    """A run against the reference server over HTTP, to its end."""

    async def main():
        options = {"ttft_ms": "5", "itl_ms": "1", **server_options}
        async with ReferenceServer(options) as server:
            command = ("serve-bench", "--engine", "openai", "--base-url", server.url, "--scenario", "smoke", "--num-warmups", "0")
            ended = await asyncio.to_thread(bmp, *command, *words, cwd=cwd, env=env)
            return ended

    return asyncio.run(main())


def json_of(folder, name):
    return json.loads((folder / name).read_text())


def members_of(process):
    """Pids of the members that a command has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"loadgen.member" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("workers", [2, 3])
def test_all_requests_are_there_and_the_summary_is_of_all(tmp_path, workers):
    words = ("--request-rate", "100", "--num-prompts", "200", "--keep-output", "--workers", str(workers))
    ended = run_against_server(*words, cwd=tmp_path)
    assert ended.returncode in RAN, ended.stderr
    folder = run_folder(ended.stdout, tmp_path)
    run, summary = json_of(folder, "run.json"), json_of(folder, "summary.json")
    assert [path.name for path in record_logs(folder)] == [f"records-{worker}.jsonl" for worker in range(workers)]
    records = list(read_records(folder))
    assert sorted(record.index for record in records) == list(range(200))
    assert all(record.worker == record.index % workers for record in records)
    assert all(record.outcome == "ok" and record.output for record in records)
    assert summary["outcomes"]["ok"] == summary["scheduled"] == 200
    assert [worker["issued_requests"] for worker in run["workers"]] == [len(range(worker, 200, workers)) for worker in range(workers)]
    assert run["facts"]["loop_utilisation"] == max(worker["loop_utilisation"] for worker in run["workers"]) > 0
    verified = bmp("verify", str(folder), cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout


def test_the_schedule_and_its_times_do_not_depend_on_the_number_of_workers(tmp_path):
    hashes, planned = set(), []
    for workers in ("1", "2", "3"):
        ended = bmp(*QUICK, "--request-rate", "200", "--num-prompts", "60", "--workers", workers, "--quiet", cwd=tmp_path)
        folder = run_folder(ended.stdout, tmp_path)
        hashes.add(json_of(folder, "run.json")["schedule_sha256"])
        planned.append({record.index: record.planned_ns for record in read_records(folder)})
    assert len(hashes) == 1
    assert planned[0] == planned[1] == planned[2]


def test_one_worker_is_in_process_and_has_one_log(tmp_path):
    ended = bmp(*QUICK, "--request-rate", "100", "--num-prompts", "5", "--workers", "1", "--quiet", cwd=tmp_path)
    folder = run_folder(ended.stdout, tmp_path)
    assert [path.name for path in record_logs(folder)] == ["records.jsonl"]
    assert "workers" not in json_of(folder, "run.json")


def test_a_closed_loops_slots_are_split(tmp_path):
    ended = bmp(*CLOSED, "--max-concurrency", "3", "--num-prompts", "40", "--workers", "2", "--quiet", cwd=tmp_path)
    records = list(read_records(run_folder(ended.stdout, tmp_path)))
    assert sorted(record.index for record in records) == list(range(40))
    for worker, slots in ((0, 2), (1, 1)):
        mine = [record for record in records if record.worker == worker]
        steps = sorted([(record.sent_ns, 1) for record in mine] + [(record.end_ns, -1) for record in mine])
        in_flight = peak = 0
        for _, step in steps:
            in_flight += step
            peak = max(peak, in_flight)
        assert peak == slots


def test_a_closed_loop_that_the_clock_ends_counts_what_all_issued(tmp_path):
    ended = bmp(*CLOSED, "--max-concurrency", "4", "--duration", "1", "--workers", "2", "--quiet", cwd=tmp_path)
    assert ended.returncode in RAN, ended.stderr
    folder = run_folder(ended.stdout, tmp_path)
    summary = json_of(folder, "summary.json")
    assert summary["scheduled"] == summary["outcomes"]["ok"] == len(list(read_records(folder))) > 20
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0


def test_fewer_slots_than_workers_are_said(tmp_path):
    ended = bmp(*CLOSED, "--max-concurrency", "1", "--num-prompts", "5", "--workers", "3", cwd=tmp_path)
    assert ended.returncode in RAN, ended.stderr
    assert "1 workers, not 3" in ended.stderr
    assert [path.name for path in record_logs(run_folder(ended.stdout, tmp_path))] == ["records.jsonl"]


def test_a_scrape_shows_the_sum_over_workers(tmp_path):
    words = ("--request-rate", "200", "--num-prompts", "100000", "--prometheus-port", "0", "--workers", "2")
    process = start(*QUICK, *words, cwd=tmp_path)
    try:
        line = next(line for line in process.stderr if "metrics at " in line)
        url = line.split("metrics at ")[1].split()[0]
        folder = wait_for_records(tmp_path, 800, process)
        time.sleep(2.5)  # members report once a second
        with urllib.request.urlopen(url, timeout=10) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        largest = max(path.read_bytes().count(b"\n") for path in folder.glob("records-*.jsonl"))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    samples = {sample.name: sample.value for family in families.values() for sample in family.samples if "le" not in sample.labels}
    assert samples["bmp_request_success_total"] >= 800
    assert samples["bmp_request_success_total"] > largest
    assert samples["bmp_time_to_first_token_seconds_count"] == samples["bmp_request_success_total"]
    assert samples["bmp_generation_tokens_total"] == 8 * samples["bmp_request_success_total"]


def test_a_killed_member_makes_the_run_invalid_and_the_others_go_on(tmp_path):
    process = start(*QUICK, "--request-rate", "100", "--num-prompts", "500", "--workers", "2", cwd=tmp_path)
    folder = wait_for_records(tmp_path, 60, process)
    members = members_of(process)
    assert len(members) == 2
    os.kill(members[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    summary = json_of(folder, "summary.json")
    by_worker = [{record.index for record in records_of(folder / f"records-{worker}.jsonl")} for worker in (0, 1)]
    lost = next(worker for worker in (0, 1) if len(by_worker[worker]) < 250)
    assert by_worker[1 - lost] == set(range(1 - lost, 500, 2)), "the other one sent all of its own"
    assert process.returncode == 1
    assert summary["verdict"] == "invalid"
    assert summary["reasons"][0].startswith(f"worker {lost} was killed by SIGKILL")
    assert summary["outcomes"]["dropped"] == 250 - len(by_worker[lost]) > 0
    assert sum(summary["outcomes"].values()) == 500
    assert "Traceback" not in stderr
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0


def test_an_interrupt_drains_all_members(tmp_path):
    options = ("--engine-option", "ttft_ms=300", "--engine-option", "itl_ms=1")
    words = ("serve-bench", "--engine", "reference", "--scenario", "smoke", "--num-warmups", "0", *options)
    process = start(*words, "--request-rate", "100", "--num-prompts", "100000", "--workers", "2", cwd=tmp_path)
    folder = wait_for_records(tmp_path, 60, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    summary, run = json_of(folder, "summary.json"), json_of(folder, "run.json")
    assert stdout.strip().splitlines()[-1] == str(folder.relative_to(tmp_path))
    assert "Traceback" not in stderr
    assert summary["outcomes"]["in_flight"] == 0
    assert summary["outcomes"]["ok"] == run["end"]["issued_requests"] == len(list(read_records(folder)))
    assert run["end"]["stopped_by_user"]
    assert sum(summary["outcomes"].values()) == 100_000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_members_do_not_outlive_the_command(tmp_path, number):
    process = start(*QUICK, "--request-rate", "50", "--num-prompts", "100000", "--workers", "2", cwd=tmp_path)
    wait_for_records(tmp_path, 20, process)
    members = members_of(process)
    process.send_signal(number)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in members):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in members)


def test_a_header_is_on_no_members_command_line_and_in_no_output(tmp_path):
    """Looked for on every member's command line while the run goes on."""
    seen: list[str] = []

    async def main():
        async with ReferenceServer({"ttft_ms": "5", "itl_ms": "1"}) as server:
            (tmp_path / "key").write_text(CANARY)
            words = ("serve-bench", "--engine", "openai", "--base-url", server.url, "--scenario", "smoke", "--workers", "2")
            words += ("--request-rate", "50", "--num-prompts", "150", "--api-key-file", str(tmp_path / "key"))
            # the command's own line holds what the user typed; a header's value must not go from there to a member's
            process = start(*words, "--header", f"X-Team: {CANARY}", cwd=tmp_path / "out")
            while process.poll() is None:
                seen.extend(member_lines())
                await asyncio.sleep(0.05)
            return process.communicate(), process.returncode

    (tmp_path / "out").mkdir()
    (stdout, stderr), status = asyncio.run(main())
    assert status in RAN, stderr
    assert any("loadgen.member" in line for line in seen), "members were looked at"
    assert not any(CANARY in line for line in seen)
    assert CANARY not in stdout + stderr
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()


def member_lines():
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if "loadgen.member" in line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--workers", "0"), "--workers 0 is not a number of workers"),
        (("--workers", "many"), "--workers many is not a number of workers"),
        (("--engine", "transformers", "--workers", "2"), "engine 'transformers' runs inside"),
        (("--engine", "transformers", "--workers", "auto"), "engine 'transformers' runs inside"),
        (("--engine", "transformers", "--ray", "auto"), "engine 'transformers' runs inside"),
        (("--ray", "127.0.0.1:1"), "no Ray cluster responds at 127.0.0.1:1"),
        (("--ray", "local"), "--ray local would start a cluster that other machines can reach"),
        (("--ray", "nonsense"), "--ray nonsense is not an address"),
    ],
)
def test_bad_input_is_one_line(tmp_path, words, expected):
    ended = bmp(*QUICK, *words, "--request-rate", "10", "--num-prompts", "2", cwd=tmp_path)
    assert ended.returncode == 2
    assert expected in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_member_that_can_not_write_its_log_is_one_line(tmp_path):
    """Its folder is there and its log too: a run never writes over one."""
    from rich.console import Console

    from bytemlperf.errors import UserError
    from bytemlperf_llm.live.metrics import LlmMetrics
    from bytemlperf_llm.loadgen.messages import MemberSpec
    from bytemlperf_llm.loadgen.processes import process_fleet
    from bytemlperf_llm.plan.scenario import load

    scenario = load("smoke")
    common = MemberSpec(
        engine="reference",
        engine_options={},
        model=None,
        scenario=plain(scenario),
        scenario_folder=str(scenario.folder),
        seed=0,
        workers=2,
        keep_output=False,
        live=False,
    )
    (tmp_path / "records-1.jsonl").write_text("")

    async def main():
        fleet = process_fleet(common, tmp_path, LlmMetrics(), Console().print, None)
        try:
            await fleet.start()
        finally:
            await fleet.close()

    with pytest.raises(UserError, match=r"can't write .*records-1\.jsonl: File exists"):
        asyncio.run(main())


def logs_of(folder):
    return [path.name for path in record_logs(folder)]


def resumed_when_unlocked(folder, cwd, *words, **more):
    """`resume`, once the members of a killed command have seen that it's gone."""
    for _ in range(100):
        ended = bmp("resume", *words, str(folder), cwd=cwd, **more)
        if "still being written" not in ended.stderr:
            return ended
        time.sleep(0.1)
    raise AssertionError(ended.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("workers", [2, 3])
def test_a_stopped_run_of_several_goes_on_with_as_many(tmp_path, number, workers):
    process = start(*QUICK, "--request-rate", "100", "--num-prompts", "300", "--workers", str(workers), cwd=tmp_path)
    folder = wait_for_records(tmp_path, 40, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    ended = resumed_when_unlocked(folder, tmp_path)
    assert ended.returncode in RAN, ended.stderr
    names = [f"records-{log}.jsonl" for log in range(2 * workers)]
    assert logs_of(folder) == names
    reader, run = read_records(folder), json_of(folder, "run.json")
    assert sorted(record.index for record in reader) == list(range(300)), "each request once"
    part = run["resumed"][0]
    assert part["logs"] == names[workers:] == [worker["log"] for worker in part["workers"]]
    assert sum(worker["issued_requests"] for worker in part["workers"]) == 300 - part["records_before"]
    before_ns = max(record.end_ns for name in names[:workers] for record in records_of(folder / name))
    for worker, name in enumerate(names[workers:]):
        added = records_of(folder / name)
        assert added
        assert all(record.worker == record.index % workers == worker for record in added)
        assert min(record.planned_ns for record in added) >= before_ns, "one time axis"
    assert json_of(folder, "summary.json")["outcomes"]["ok"] == 300
    verified = bmp("verify", str(folder), cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout


def test_several_workers_of_a_closed_loop_get_the_rest_of_its_time(tmp_path):
    words = ("--max-concurrency", "4", "--duration", "3", "--workers", "2")
    process = start(*CLOSED, *words, cwd=tmp_path)
    folder = wait_for_records(tmp_path, 60, process)
    process.kill()
    process.communicate()
    until_ns = max(record.end_ns for record in read_records(folder))
    assert until_ns < 3e9
    assert resumed_when_unlocked(folder, tmp_path, "--trust").returncode in RAN
    records = list(read_records(folder))
    assert len({record.index for record in records}) == len(records) == json_of(folder, "run.json")["facts"]["scheduled_requests"]
    assert until_ns < 2.9e9 < max(record.end_ns for record in records) < 5e9
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0


def test_what_is_left_may_be_too_little_for_as_many(tmp_path):
    process = start(*QUICK, "--request-rate", "100", "--num-prompts", "100", "--workers", "2", cwd=tmp_path)
    folder = wait_for_records(tmp_path, 100, process)
    process.communicate(timeout=60)
    log = folder / "records-1.jsonl"
    whole = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(whole[:-1]))  # as a disk may lose the last one
    ended = bmp("resume", str(folder), cwd=tmp_path)
    assert ended.returncode in RAN, ended.stderr
    assert "1 workers, not 2" in ended.stderr
    assert logs_of(folder) == ["records-0.jsonl", "records-1.jsonl", "records-2.jsonl"]
    assert sorted(record.index for record in read_records(folder)) == list(range(100))
