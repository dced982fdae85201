"""Pages of metrics beside a run, as a user names them: one that tells of devices, and one that does whatever it can to disturb it."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread

from tests.cli.helpers import bmp, run_folder, started_server
from tests.engines.test_scraper import Server

RAN = (0, 4)
"""Valid, or limited by this client: the machine may be busy."""
DCGM = b'DCGM_FI_DEV_POWER_USAGE{gpu="0"} 300\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0"} %d\n'
MANY = b"".join(b'vllm:num_requests_running{engine="%d"} 1\nother_%d{a="b"} 2\n' % (number, number) for number in range(10_000))


def vllm(tokens: int) -> tuple[int, bytes]:
    return 200, b"vllm:generation_tokens_total %d\nvllm:num_requests_running 3\n" % tokens


def serving(*answers: tuple[int, bytes] | bytes) -> Server:
    server = Server(*answers)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_a_page_that_lies_goes_away_and_begins_again_disturbs_no_request_and_the_result_says_what_is_missing(tmp_path: Path) -> None:
    begun = [vllm(1_000), vllm(1_000), vllm(1_100)]
    bad = [b"\x16\x03 oh", (503, b""), (200, b"vllm:generation_tokens_total NaN\n"), (200, MANY)]
    hostile = serving(*begun, *bad, vllm(10), vllm(40))
    devices = serving(*((200, DCGM % (joules * 1000)) for joules in range(0, 9_000, 300)))
    with started_server("ttft_ms=20") as url:
        ended = bmp(
            *("serve-bench", "--engine", "openai", "--base-url", url, "--request-rate", "20", "--num-prompts", "200", "--output-len", "4"),
            *("--metrics-url", f"bad={hostile.url}", "--metrics-url", f"gpu={devices.url}"),
            cwd=tmp_path,
        )
    assert ended.returncode in RAN, ended.stderr
    assert "Traceback" not in ended.stderr
    folder = run_folder(ended.stdout, tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["outcomes"]["ok"] == 200
    missing = " ".join(summary["server"]["missing"])
    assert "metrics of bad: said nothing 3 of the " in missing
    assert "metrics of bad: its counters began again" in missing
    assert summary["server"]["counts"]["bad_output_tokens"] == 100 + 40
    assert summary["energy"]["source"] == "measured by gpu"
    assert summary["energy"]["joules_per_output_token"] == summary["energy"]["joules"] / 800
    samples = [json.loads(line)["gauges"] for line in (folder / "gauges.jsonl").read_text().splitlines()]
    assert any(sample.get("bad_running") == 4_000 for sample in samples)
    assert any("gpu_power_w" in sample and "bad_running" not in sample for sample in samples)
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0
    for server in (hostile, devices):
        server.shutdown()
        server.server_close()
