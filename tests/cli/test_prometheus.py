"""A real Prometheus scrapes a run in its middle and answers queries about it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import pytest

from tests.cli.helpers import QUICK, start

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on this machine")]
LIMIT_S = 60
SCRAPED_TWICE = "bmp_request_success_total and on() rate(bmp_request_success_total[10s]) > 0"


def query(port: int, expression: str) -> float | None:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            result = json.load(answer)["data"]["result"]
    except OSError:
        return None
    return float(result[0]["value"][1]) if result else None


def test_prometheus_scrapes_a_run_and_answers(tmp_path):
    run = start(*QUICK, "--request-rate", "50", "--num-prompts", "100000", "--prometheus-port", "0", cwd=tmp_path)
    prometheus = None
    try:
        line = next(line for line in run.stderr if "metrics at " in line)
        target = line.split("http://")[1].split("/")[0]
        config = tmp_path / "prometheus.yml"
        config.write_text(
            f"global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: bmp\n    static_configs: [{{targets: ['{target}']}}]\n"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'db'}"]
        with open(os.devnull, "w") as nowhere:
            prometheus = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=nowhere, stderr=nowhere)
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and (query(port, SCRAPED_TWICE) or 0) < 150:
            time.sleep(0.5)
        assert query(port, "up") == 1
        assert query(port, "bmp_request_success_total") >= 150
        assert query(port, "rate(bmp_request_success_total[10s])") > 3  # a window that has just begun to fill
        median_s = query(port, "histogram_quantile(0.5, rate(bmp_time_to_first_token_seconds_bucket[10s]))")
        assert 0.001 < median_s < 1  # 5 ms stated, and a busy machine
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
        if prometheus is not None:
            prometheus.terminate()
            prometheus.wait(20)
