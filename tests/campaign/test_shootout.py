"""`bmp-llm shootout`: engines on one schedule; what differs is said."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from bytemlperf.errors import UserError
from bytemlperf.runs.kinds import Figure
from bytemlperf.runs.records import RunRecords
from bytemlperf_llm.campaign.flags import ShootoutFlags
from bytemlperf_llm.campaign.kind import KIND
from bytemlperf_llm.campaign.records import JobRecord
from bytemlperf_llm.campaign.shootout import shootout_campaign
from bytemlperf_llm.plan.flags import Flags
from tests.cli.helpers import bmp, run_folder, start


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server on loopback with the reference engine's own latencies."""
    process: subprocess.Popen[str] = start("reference-server", "--port", "0", "--engine-option", "ttft_ms=5", cwd=tmp_path)
    assert process.stdout is not None
    yield next(word for word in process.stdout.readline().split() if word.startswith("http://"))
    process.terminate()
    process.communicate(timeout=30)


def test_every_engine_gets_the_same_schedule(address, tmp_path):
    words = ("--scenario", "smoke", "--request-rate", "50", "--num-prompts", "20", "--num-warmups", "0", "--seed", "3")
    ended = bmp("shootout", "--engines", f"reference,server={address}", *words, "--quiet", "--repeats", "2", cwd=tmp_path)
    folder = run_folder(ended.stdout, tmp_path)
    records = list(RunRecords[JobRecord](folder, JobRecord))
    assert [(record.engine, record.repeat, record.status) for record in records] == [
        ("reference", 1, "ok"),
        ("server", 1, "ok"),
        ("reference", 2, "ok"),
        ("server", 2, "ok"),
    ]
    assert records[0].schedule_sha256 == records[1].schedule_sha256 != records[2].schedule_sha256 == records[3].schedule_sha256
    assert [record.seed for record in records] == [3, 3, 4, 4]
    summary = json.loads((folder / "summary.json").read_text())
    assert not [text for text in summary["reasons"] if "schedule" in text]
    assert {record.run for record in records} == {path.parent.name for path in folder.glob("*/run.json")}


def record(engine: str, sha: str, repeat: int = 1) -> JobRecord:
    figure = Figure(key="chat", metric="ttft p50", label="TTFT p50", unit="ms", value=10.0, better="lower", low=9.0, high=11.0)
    about = {"engine": engine, "scenario": "chat", "load": "own load", "repeat": repeat, "verdict": "valid", "run": f"{engine}-{repeat}"}
    return JobRecord(**about, schedule_sha256=sha, figures=[figure])


@pytest.mark.parametrize("same_schedule", [True, False])
def test_another_schedule_is_another_load(same_schedule):
    records = [record("a", "1"), record("b", "1"), record("a", "2", 2), record("b", "3", 2)]
    jobs = [["a", "chat", "own load", 1], ["b", "chat", "own load", 1], ["a", "chat", "own load", 2], ["b", "chat", "own load", 2]]
    summary = KIND.summarise({"config": {"jobs": jobs, "campaign": {"same_schedule": same_schedule}}}, records)
    said = summary["reasons" if same_schedule else "warnings"]
    assert [text.partition(",")[0] for text in said] == ["b · chat · own load · repeat 2: another schedule than a's"]
    assert summary["verdict"] == ("invalid" if same_schedule else "valid")
    assert KIND.exit_status(summary) == (1 if same_schedule else 0)


def test_a_run_that_is_thin_or_of_a_client_at_its_limit_makes_the_campaign_so():
    run = {"config": {"jobs": [["a", "chat", "own load", 1], ["a", "chat", "own load", 2]]}}
    for verdict in ("thin", "client-limited"):
        summary = KIND.summarise(run, [record("a", "1"), replace(record("a", "1", 2), verdict=verdict, reasons=["why"])])
        assert summary["verdict"] == verdict
        assert summary["reasons"] == [f"1 of 2 runs is {verdict}, such as a · chat · own load · repeat 2: why"]
        assert KIND.exit_status(summary) == 0


def test_repeats_are_pooled_by_their_mean_and_spread_and_a_share_stays_below_100():
    jobs = [["a", "chat", "own load", repeat] for repeat in (1, 2, 3)]
    values, shares = (10.0, 11.0, 12.0), (90.0, 99.0, 93.0)
    records = [
        JobRecord(
            engine="a",
            scenario="chat",
            load="own load",
            repeat=repeat,
            verdict="valid",
            figures=[
                Figure(key="chat", metric="ttft p50", unit="ms", value=value, low=9.9, high=12.1),
                Figure(key="chat", metric="goodput share", unit="%", value=share),
                Figure(key="chat", metric="ttft p99", unit="ms", value=None if repeat == 2 else value, reason="insufficient samples"),
            ],
        )
        for repeat, value, share in zip((1, 2, 3), values, shares, strict=True)
    ]
    ttft, share, tail = KIND.figures({"config": {"jobs": jobs}}, {}, records)
    assert (ttft.value, ttft.count) == (11, 3)
    reach = 4.302653 * math.sqrt(1 / 3)  # Student's t of 2 degrees of freedom, times the standard error
    assert (ttft.low, ttft.high) == pytest.approx((11 / math.exp(reach / 11), 11 * math.exp(reach / 11)), rel=1e-4)
    assert (share.value, share.high) == (94, 100)
    assert (tail.value, tail.reason) == (None, "insufficient samples")


def test_flags_are_the_campaigns():
    flags = Flags(scenario="smoke", request_rate="inf", num_prompts=5, goodput=("ttft:5",), temperature=0.5, seed=2)
    campaign = shootout_campaign(ShootoutFlags(engines="reference, b=http://127.0.0.1:1", repeats=3, cool_down_s=1.5), flags)
    assert [(entry.name, entry.engine_name, entry.base_url) for entry in campaign.engines] == [
        ("reference", "reference", None),
        ("b", "openai", "http://127.0.0.1:1"),
    ]
    assert (campaign.rates, campaign.repeats, campaign.cool_down_s, campaign.seed) == (("inf",), 3, 1.5, 2)
    assert campaign.settings == {"num_prompts": 5, "goodput": ["ttft:5"], "temperature": 0.5}
    closed = shootout_campaign(ShootoutFlags(engines="reference"), Flags(scenario="smoke", max_concurrency=4))
    assert (closed.rates, closed.concurrency, closed.settings) == (None, (4,), {})


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        ("vlm", "--engines: engines.0.name: there is no engine 'vlm'; did you mean 'vllm'?"),
        ("vllm,vllm", "--engines: engines: 'vllm' is there twice; remove or rename one of them"),
        ("vllm,,", "--engines has ''; give names between commas"),
        ("a=", "--engines has 'a='; give names"),
    ],
)
def test_bad_input_is_one_line(engines, said):
    with pytest.raises(UserError) as refused:
        shootout_campaign(ShootoutFlags(engines=engines), Flags())
    assert str(refused.value).startswith(said)
