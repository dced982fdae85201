"""serve-bench as a user runs it, on the reference engine and server."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bytemlperf.runs.verdicts import VERDICTS
from tests.cli.helpers import CLOSED, QUICK, bmp, run_folder, start, started_server, wait_for_records
from tests.runs.reading import read_records


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run with everything on, shared by the tests that only look at it."""
    place = tmp_path_factory.mktemp("run")
    words = (
        *QUICK,
        "--request-rate",
        "50",
        "--burstiness",
        "inf",
        "--num-prompts",
        "60",
        "--save-result",
        "--save-detailed",
        "--csv",
        "--parquet",
    )
    ended = bmp(*words, "--metadata", "team=blue", "--keep-output", "--metric-percentiles", "50,99", cwd=place)
    assert ended.returncode in (0, 1), ended.stderr  # a machine that is busy with something else may make a run invalid
    return ended, run_folder(ended.stdout, place)


def test_the_last_line_is_the_run_folder_and_the_table_is_above(finished):
    ended, folder = finished
    assert folder.is_dir()
    assert any(verdict.upper() in ended.stdout for verdict in VERDICTS)
    assert "load constant gaps, 50 req/s" in ended.stdout
    assert "TTFT" in ended.stdout
    assert "insufficient" in ended.stdout, "sixty requests can't carry a p99"
    assert "percentiles by nearest rank" in ended.stdout
    assert "next: bmp-llm" in ended.stdout
    assert "\x1b" not in ended.stdout, "plain when not a terminal"


def test_the_head_of_the_page_says_the_load(finished):
    assert "constant gaps, 50 req/s" in (finished[1] / "report.html").read_text().split("</header>")[0]


def test_the_run_folder_holds_what_the_formats_page_says(finished):
    _, folder = finished
    names = {path.name for path in folder.iterdir()}
    exports = {"records.csv", "records.parquet", "vllm-bench.json"}
    kept = {"run.json", "records.jsonl", "summary.json", "checksums.json", "recount.json", "gauges.jsonl", "report.html"}
    assert names == kept | exports
    run = json.loads((folder / "run.json").read_text())
    assert run["format_version"] == 1
    assert run["kind"] == "llm"
    assert run["config"]["scenario"]["arrival"]["rate"] == 50
    assert run["config"]["metadata"] == {"team": "blue"}
    assert run["seed"] == 0
    assert len(run["schedule_sha256"]) == 64
    assert run["engine"]["name"] == "reference"
    assert run["environment"]["hardware"]["cpu"]
    assert run["environment"]["packages"]["msgspec"]
    measured = {name: run["end"].pop(name) for name in ("at", "duration_ns", "load")}
    assert run["end"] == {"issued_requests": 60, "stopped_by_user": False, "failure": ""}
    assert measured["load"]["requested_rate"] == 50
    assert measured["load"].keys() >= {"offered_rate", "count_dispersion", "arrival_test", "lateness", "loop_utilisation"}
    assert run["command"][:3] == ["bmp-llm", "serve-bench", "--engine"]


def test_outcomes_sum_to_the_schedule(finished):
    ended, folder = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["scheduled"] == sum(summary["outcomes"].values()) == 60
    assert summary["outcomes"]["ok"] == 60
    assert (summary["verdict"] == "invalid") == (ended.returncode == 1)
    assert summary["metrics"]["ttft"]["count"] == 60


def test_summarize_gives_the_same_bytes_again(finished, tmp_path):
    ran, folder = finished
    before = (folder / "summary.json").read_bytes()
    (folder / "summary.json").unlink()
    ended = bmp("summarize", str(folder), cwd=tmp_path)
    assert ended.returncode == ran.returncode
    assert (folder / "summary.json").read_bytes() == before


def test_the_vllm_file_has_vllms_keys(finished):
    _, folder = finished
    result = json.loads((folder / "vllm-bench.json").read_text())
    setup = "date endpoint_type backend label model_id tokenizer_id num_prompts request_rate burstiness max_concurrency"
    results = (
        "duration completed failed total_input_tokens total_output_tokens request_throughput request_goodput output_throughput "
        "total_token_throughput max_output_tokens_per_s max_concurrent_requests"
    )
    statistics = [f"{word}_{name}_ms" for name in ("ttft", "tpot", "itl") for word in ("mean", "median", "std", "p50", "p99")]
    detailed = "input_lens output_lens start_times ttfts itls generated_texts errors"
    always = ["latencies", "queue_times", "rtfx"]
    assert set(result) == {*setup.split(), *results.split(), *statistics, *detailed.split(), *always, "team"}
    assert result["request_goodput"] is None, "no --goodput was given"
    assert result["burstiness"] == "inf"
    assert result["tokenizer_id"] == result["model_id"]
    assert 0 < result["start_times"][0] < time.perf_counter()
    assert result["completed"] == len(result["ttfts"]) == 60
    assert all(result["generated_texts"])


def test_the_tables_hold_every_record(finished):
    import polars

    _, folder = finished
    assert polars.read_csv(folder / "records.csv", infer_schema_length=None).height == 60
    frame = polars.read_parquet(folder / "records.parquet")
    assert frame["outcome"].to_list() == ["ok"] * 60
    assert frame["output_tokens"].sum() == sum(record.output_tokens for record in read_records(folder))


def test_the_same_seed_gives_the_same_schedule(finished, tmp_path):
    _, folder = finished
    hashes = {json.loads((folder / "run.json").read_text())["schedule_sha256"]}
    for seed in ("0", "1"):
        ended = bmp(*QUICK, "--request-rate", "50", "--num-prompts", "60", "--seed", seed, "--quiet", cwd=tmp_path)
        hashes.add(json.loads((run_folder(ended.stdout, tmp_path) / "run.json").read_text())["schedule_sha256"])
    assert len(hashes) == 2, "seed 0 gave the same schedule twice, seed 1 another"


def test_quiet_prints_the_path_alone(tmp_path):
    ended = bmp(*QUICK, "--request-rate", "100", "--num-prompts", "5", "--quiet", cwd=tmp_path)
    assert ended.stdout.strip().splitlines() == [str(run_folder(ended.stdout, tmp_path).relative_to(tmp_path))]
    assert ended.stderr == ""


def test_a_closed_loop_keeps_its_number_in_flight(tmp_path):
    ended = bmp(*CLOSED, "--max-concurrency", "3", "--num-prompts", "30", "--quiet", cwd=tmp_path)
    records = list(read_records(run_folder(ended.stdout, tmp_path)))
    assert len(records) == 30
    assert all(record.planned_ns is None for record in records)


def test_rate_auto_probes_and_says_what_it_chose(tmp_path):
    words = (
        "serve-bench",
        "--engine",
        "reference",
        "--scenario",
        "chat",
        "--duration",
        "2",
        "--engine-option",
        "slots=2",
        "--output-len",
        "4",
    )
    ended = bmp(*words, "--engine-option", "ttft_ms=5", "--engine-option", "itl_ms=5", "--num-warmups", "1", cwd=tmp_path)
    assert ended.returncode in (0, 1), ended.stderr
    assert "rate auto:" in ended.stderr
    assert "requests/s" in ended.stderr
    run = json.loads((run_folder(ended.stdout, tmp_path) / "run.json").read_text())
    # two slots of 20 ms each: 100 requests/s
    assert 30 < run["config"]["probe"]["chosen_rate_per_s"] < 110
    assert run["config"]["scenario"]["arrival"]["rate"] == run["config"]["probe"]["chosen_rate_per_s"]


def test_a_ceiling_that_was_not_found_is_in_the_result(tmp_path):
    words = (*QUICK, "--request-rate", "auto", "--max-concurrency", "6", "--num-prompts", "20")
    ended = bmp(*words, "--engine-option", "slots=50", cwd=tmp_path)
    summary = json.loads((run_folder(ended.stdout, tmp_path) / "summary.json").read_text())
    (said,) = [text for text in summary["warnings"] if text.startswith("rate auto: ")]
    assert "CEILING NOT FOUND: throughput still grew at 6 streams, the limit of max_concurrency" in said
    assert "CEILING NOT FOUND" in " ".join(ended.stdout.split())


def test_failures_are_counted_and_the_run_goes_on(tmp_path):
    words = (*QUICK, "--request-rate", "100", "--num-prompts", "60", "--engine-option", "fail_every=3")
    ended = bmp(*words, cwd=tmp_path)
    summary = json.loads((run_folder(ended.stdout, tmp_path) / "summary.json").read_text())
    assert ended.returncode in (1, 4), ended.stderr
    assert summary["verdict"] in ("failing", "invalid")  # the latter where this machine is too busy to keep the load
    assert any("20 of 60 requests failed (33.3%, limit 5%)" in reason for reason in summary["reasons"])
    assert summary["outcomes"]["failed"] == summary["failures"]["engine_failed"]["count"] == 20
    assert summary["outcomes"]["ok"] == 40
    assert "engine_failed" in ended.stdout


def test_a_rate_above_capacity_is_overloaded_and_has_its_status(tmp_path):
    """Two slots of 12 ms carry 167 requests a second."""
    ended = bmp(*QUICK, "--engine-option", "slots=2", "--request-rate", "500", "--num-prompts", "200", cwd=tmp_path)
    summary = json.loads((run_folder(ended.stdout, tmp_path) / "summary.json").read_text())
    assert ended.returncode == {"overloaded": 3, "invalid": 1}[summary["verdict"]]  # the latter where this machine is busy
    assert any(reason.startswith("target rate 500 requests/s, completed 1") for reason in summary["reasons"])
    assert summary["load"]["latency_trend"]["overloaded"]


def test_a_client_out_of_files_says_so_and_blames_nobody_else(tmp_path):
    with started_server("ttft_ms=300") as url:
        words = ("--base-url", url, "--scenario", "smoke", "--request-rate", "inf", "--num-prompts", "150")
        ended = bmp("serve-bench", "--engine", "openai", *words, cwd=tmp_path, preexec_fn=few_files)
    summary = json.loads((run_folder(ended.stdout, tmp_path) / "summary.json").read_text())
    lost = summary["failures"]["client_limit"]["count"]
    assert lost > 50
    assert summary["outcomes"] == {"ok": 150 - lost, "failed": lost, "cancelled": 0, "dropped": 0, "in_flight": 0}
    assert summary["outages"] == []
    assert ended.returncode == {"client-limited": 4, "invalid": 1}[summary["verdict"]]
    assert any("this client's own limits" in reason and "ulimit -n" in reason for reason in summary["reasons"])


def few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))


def test_max_error_rate_stops_the_run_and_makes_it_invalid(tmp_path):
    words = (*QUICK, "--request-rate", "100", "--num-prompts", "500", "--engine-option", "fail_every=2", "--max-error-rate", "0.2")
    ended = bmp(*words, cwd=tmp_path)
    summary = json.loads((run_folder(ended.stdout, tmp_path) / "summary.json").read_text())
    assert ended.returncode == 1
    assert summary["verdict"] == "invalid"
    assert "--max-error-rate" in summary["reasons"][0]
    assert summary["outcomes"]["dropped"] > 300
    assert sum(summary["outcomes"].values()) == 500


def test_a_killed_run_can_be_summarised(tmp_path):
    process = start(*QUICK, "--request-rate", "100", "--num-prompts", "100000", cwd=tmp_path)
    folder = wait_for_records(tmp_path, 50, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    whole = (folder / "records.jsonl").read_bytes().count(b"\n")
    ended = bmp("summarize", str(folder), cwd=tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert "Traceback" not in ended.stderr
    assert sum(summary["outcomes"][name] for name in ("ok", "failed")) == whole
    assert sum(summary["outcomes"].values()) == 100_000
    assert any("killed" in warning for warning in summary["warnings"])


def test_the_first_interrupt_drains_and_reports(tmp_path):
    process = start(*QUICK, "--request-rate", "100", "--num-prompts", "100000", cwd=tmp_path)
    folder = wait_for_records(tmp_path, 30, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    summary = json.loads((folder / "summary.json").read_text())
    assert stdout.strip().splitlines()[-1] == str(folder.relative_to(tmp_path))
    assert "Traceback" not in stderr
    assert summary["outcomes"]["ok"] >= 30
    assert summary["outcomes"]["in_flight"] == 0, "what was in flight was waited for"
    assert sum(summary["outcomes"].values()) == 100_000


def test_a_real_client_scrapes_a_run_in_its_middle(tmp_path):
    process = start(*QUICK, "--request-rate", "50", "--num-prompts", "100000", "--prometheus-port", "0", cwd=tmp_path)
    try:
        line = next(line for line in process.stderr if "metrics at " in line)
        url = line.split("metrics at ")[1].split()[0]
        assert url.startswith("http://127.0.0.1:")
        wait_for_records(tmp_path, 100, process)
        time.sleep(1.5)  # token gaps are put into their buckets once a second
        with urllib.request.urlopen(url, timeout=10) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        refused = urllib.request.Request(url, data=b"x", method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(refused, timeout=10)
        assert caught.value.code == 405
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    samples = {sample.name: sample.value for family in families.values() for sample in family.samples if "le" not in sample.labels}
    assert samples["bmp_request_success_total"] >= 100
    assert samples["bmp_time_to_first_token_seconds_count"] == samples["bmp_request_success_total"]
    assert 0.005 <= samples["bmp_time_to_first_token_seconds_sum"] / samples["bmp_time_to_first_token_seconds_count"] < 1
    assert samples["bmp_generation_tokens_total"] > samples["bmp_request_success_total"]
    assert samples["bmp_inter_token_latency_seconds_count"] > 0
    wanted = "bmp_time_per_output_token_seconds bmp_e2e_request_latency_seconds bmp_requests_in_flight bmp_schedule_lateness_seconds"
    assert set(wanted.split()) <= set(families)
    assert {"bmp_request_failure", "bmp_prompt_tokens"} <= set(families)


def test_a_listener_that_others_may_reach_is_said_loudly(tmp_path):
    words = (*QUICK, "--request-rate", "50", "--num-prompts", "3", "--prometheus-port", "0")
    ended = bmp(*words, "--prometheus-host", "0.0.0.0", cwd=tmp_path)
    assert "WARNING: metrics are served on 0.0.0.0, which other machines may reach" in ended.stderr
    assert "WARNING" not in bmp(*words, cwd=tmp_path).stderr


CANARY = "sk-canary-7f3a9d2e51"


@pytest.mark.parametrize("model", ["echo_key", "echo_key_in_stream", "honest"])
def test_a_key_is_found_nowhere(tmp_path, model):
    """Given through environment, file, header and URL, on good and on error paths, echoed by the server."""
    import asyncio

    from tests.hostile.server import HostileServer

    (tmp_path / "key").write_text(CANARY)
    place = tmp_path / "out"
    place.mkdir()

    async def run_against(words, env, userinfo):
        async with HostileServer() as server:
            url = server.url.replace("://", f"://{userinfo}@") if userinfo else server.url
            command = (
                "serve-bench", "--engine", "openai", "--base-url", url, "--model", model, "--scenario", "smoke", "--request-rate", "20",
                "--num-prompts", "10", "--num-warmups", "0", "--keep-output", "--save-result", "--save-detailed", "--csv", *words,
            )  # fmt: skip
            return await asyncio.to_thread(bmp, *command, cwd=place, env=env)

    ways = [
        ((), {"OPENAI_API_KEY": CANARY}, ""),
        (("--api-key-file", str(tmp_path / "key")), {}, ""),
        (("--header", f"X-Api-Key: {CANARY}"), {}, ""),
        ((), {"OPENAI_API_KEY": ""}, f"user:{CANARY}"),
    ]
    for words, env, userinfo in ways:
        ended = asyncio.run(run_against(words, env, userinfo))
        assert CANARY not in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
    for path in place.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def test_help_imports_nothing_heavy():
    import sys

    program = (
        "import sys, contextlib, io\n"
        "from bytemlperf_llm.cli import app\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    app(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'vllm', 'transformers', 'numpy', 'polars', 'pydantic', 'aiohttp', 'msgspec', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
