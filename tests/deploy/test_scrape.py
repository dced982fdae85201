"""A real Prometheus, with deploy/'s own configuration and rules, scrapes a run; its answers against the run's records."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.live.metrics import FAMILIES, FLUSH_REQUESTS
from tests.cli.helpers import QUICK, start
from tests.runs.reading import read_records

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on this machine")]
DEPLOY = Path(__file__).parents[2] / "deploy/prometheus"
BOUNDS_S = next(family.buckets for family in FAMILIES if family.name == "bmp_time_to_first_token_seconds")
TTFT = "bmp_time_to_first_token_seconds"
LIMIT_S, ENOUGH_REQUESTS = 90, 600
RULE_LIMIT_S = 30  # two rounds of the rules


class Prometheus:
    """A server of this test's own."""

    def __init__(self, folder: Path, target: str) -> None:
        folder.mkdir()
        shutil.copy(DEPLOY / "rules.yml", folder)
        configuration = (DEPLOY / "prometheus.yml").read_text()
        assert "127.0.0.1:9400" in configuration
        (folder / "prometheus.yml").write_text(configuration.replace("127.0.0.1:9400", target))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'db'}"]
        with open(os.devnull, "w") as nowhere:
            self.process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{self.port}"], stdout=nowhere, stderr=nowhere)

    def query(self, expression: str, at: float | None = None) -> list[dict]:
        words = {"query": expression} | ({"time": f"{at:.3f}"} if at else {})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode(words)}", timeout=5) as answer:
                return json.load(answer)["data"]["result"]
        except OSError:
            return []

    def value(self, expression: str, at: float | None = None) -> float:
        result = self.query(expression, at)
        assert len(result) == 1, (expression, result)
        return float(result[0]["value"][1])

    def recorded(self, rule: str) -> float:
        """A rule's value, once it has been evaluated over two scrapes; that may be after the run's end."""
        deadline = time.monotonic() + RULE_LIMIT_S
        while not self.query(rule) and time.monotonic() < deadline:
            time.sleep(0.2)
        return self.value(rule)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class Scraped:
    """A run, killed after enough requests, and the Prometheus that watched it."""

    def __init__(self, folder: Path) -> None:
        load = (
            "--request-rate",
            "60",
            "--num-prompts",
            "100000",
            "--output-len",
            "8",
            "--engine-option",
            "ttft_ms=12",
            "--engine-option",
            "jitter=0.8",
        )
        run = start(*QUICK, *load, "--prometheus-port", "0", cwd=folder)
        try:
            line = next(line for line in run.stderr if "metrics at " in line)
            self.prometheus = Prometheus(folder / "prometheus", line.split("http://")[1].split("/")[0])
            deadline = time.monotonic() + LIMIT_S
            count = f"{TTFT}_count"
            while time.monotonic() < deadline and not any(
                float(each["value"][1]) >= ENOUGH_REQUESTS for each in self.prometheus.query(count)
            ):
                time.sleep(0.5)
        finally:
            run.send_signal(signal.SIGKILL)
            run.communicate()
        (path,) = (folder / "runs").iterdir()
        self.records = [record for record in read_records(path) if record.outcome == "ok"]

    def last_scrape(self) -> tuple[float, int]:
        """When the histogram was last scraped (seconds of the epoch), and how many requests it held."""
        (series,) = self.prometheus.query(f"{TTFT}_count[2m]")
        at, count = series["values"][-1]
        return float(at), int(float(count))


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    made = Scraped(tmp_path_factory.mktemp("scrape"))
    yield made
    made.prometheus.close()


def bucket(value_s: float) -> tuple[float, float]:
    """The bounds of the bucket that a value falls into."""
    place = bisect_left(BOUNDS_S, value_s)
    return (BOUNDS_S[place - 1] if place else 0.0), BOUNDS_S[place]


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_histogram_quantile_is_within_the_bucket_of_the_exact_percentile(scraped: Scraped, quantile: float):
    """The exporter sees requests in the order in which their records are written, so that the first `count`
    records are exactly what the last scrape held."""
    at, count = scraped.last_scrape()
    ttft_s = sorted((record.chunk_ns[0] - record.planned_ns) / NS_PER_S for record in islice(scraped.records, count))
    assert len(ttft_s) == count >= ENOUGH_REQUESTS
    rank = math.ceil(quantile * count) - 1
    low, high = bucket(ttft_s[rank - 1])[0], bucket(ttft_s[min(rank + 1, count - 1)])[1]  # a rank beside it may lie in the next bucket
    estimate = scraped.prometheus.value(f"histogram_quantile({quantile}, {TTFT}_bucket)", at)
    assert low <= estimate <= high


def test_quantiles_of_tpot_are_within_ten_per_cent(scraped: Scraped):
    at, count = scraped.last_scrape()
    kept = list(islice(scraped.records, count))
    tpot_s = sorted((record.chunk_ns[-1] - record.chunk_ns[0]) / (record.output_tokens - 1) / NS_PER_S for record in kept)
    for quantile in (0.5, 0.9, 0.99):
        estimate = scraped.prometheus.value(f"histogram_quantile({quantile}, bmp_time_per_output_token_seconds_bucket)", at)
        assert estimate == pytest.approx(tpot_s[math.ceil(quantile * count) - 1], rel=0.1)


def test_the_run_is_named_and_its_plan_and_goodput_are_there(scraped: Scraped):
    at, count = scraped.last_scrape()
    ((series),) = scraped.prometheus.query("bmp_run_info", at)
    assert (series["metric"]["kind"], series["metric"]["engine"], series["value"][1]) == ("llm", "reference", "1")
    assert scraped.prometheus.value("bmp_requests_planned", at) == 100_000
    assert scraped.prometheus.value("bmp_request_goodput_total", at) == pytest.approx(count, abs=FLUSH_REQUESTS)


def test_buckets_count_what_the_records_say(scraped: Scraped):
    at, count = scraped.last_scrape()
    ttft_s = [(record.chunk_ns[0] - record.planned_ns) / NS_PER_S for record in islice(scraped.records, count)]
    found = {float(each["metric"]["le"]): int(float(each["value"][1])) for each in scraped.prometheus.query(f"{TTFT}_bucket", at)}
    assert found == {bound: sum(value <= bound for value in ttft_s) for bound in (*BOUNDS_S, math.inf)}
    assert len(set(found.values())) >= 3, "TTFT varies by four fifths, over several buckets"


def test_rate_is_what_the_counter_rose_by(scraped: Scraped):
    at, _ = scraped.last_scrape()
    (series,) = scraped.prometheus.query("bmp_request_success_total[8s]", at)
    (first_at, first), (last_at, last) = series["values"][0], series["values"][-1]
    slope = (float(last) - float(first)) / (last_at - first_at)
    assert slope > 0
    assert scraped.prometheus.value("rate(bmp_request_success_total[8s])", at) == pytest.approx(
        slope, rel=0.3
    )  # extrapolated to the window
    total = scraped.prometheus.value("bmp_request_success_total", at)
    tokens = scraped.prometheus.value("bmp_generation_tokens_total", at)
    assert abs(tokens / 8 - total) <= FLUSH_REQUESTS, "a scrape between two counters of one flush"


def test_the_recorded_rules_give_values_and_nothing_alerts(scraped: Scraped):
    at, _ = scraped.last_scrape()
    assert scraped.prometheus.recorded("instance:bmp_request_failures:ratio_rate1m") == 0
    assert scraped.prometheus.recorded("instance:bmp_requests:rate1m") > 0
    assert scraped.prometheus.recorded("instance:bmp_time_to_first_token_seconds:p99_1m") > 0.006
    assert scraped.prometheus.query("ALERTS{alertname!='BenchmarkClientLate'}", at) == []  # lateness is the machine's
