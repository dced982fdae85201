"""A mix of classes over several servers, as a user runs it: the command against reference servers on loopback."""

from __future__ import annotations

import asyncio
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engines.reference.server import ReferenceServer
from tests.cli.helpers import bmp, run_folder, start, wait_for_records
from tests.runs.reading import read_records

RAN = (0, 1)  # a machine that is busy with something else may make a run invalid
QUICK, SLOW = {"ttft_ms": "3", "itl_ms": "1"}, {"ttft_ms": "30", "itl_ms": "1"}
COMMAND = ("serve-bench", "--engine", "openai", "--scenario", "mixed", "--tokenizer", "words")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_mix_from_start_to_end(tmp_path: Path, workers: str) -> None:
    async def main() -> Any:
        async with ReferenceServer(QUICK) as one, ReferenceServer(SLOW) as other:
            words = (
                "--base-url",
                one.url,
                "--base-url",
                other.url,
                "--request-rate",
                "60",
                "--duration",
                "3",
                "--csv",
                "--workers",
                workers,
            )
            return one.url, other.url, await asyncio.to_thread(bmp, *COMMAND, *words, "--header", "X-Class: {class}", cwd=tmp_path)

    quick, slow, ended = asyncio.run(main())
    assert ended.returncode in RAN, ended.stderr
    run = run_folder(ended.stdout, tmp_path)
    records = sorted(read_records(run), key=lambda record: record.index)
    summary = json.loads((run / "summary.json").read_text())
    assert [record.endpoint for record in records] == [(quick, slow)[record.index % 2] for record in records]
    classes, endpoints = summary["classes"], summary["endpoints"]
    assert {name: group["requests"] for name, group in classes.items()} == Counter(record.class_name for record in records)
    assert sum(group["requests"] for group in endpoints.values()) == len(records) == summary["scheduled"]
    assert sum(group["goodput"]["good_requests"] for group in classes.values()) == summary["goodput"]["good_requests"]
    assert endpoints[quick]["metrics"]["ttft"]["mean"] < endpoints[slow]["metrics"]["ttft"]["mean"]
    assert 0 < summary["fairness"]["jain_index"] <= 1
    rows = list(csv.DictReader((run / "records.csv").open(encoding="utf-8")))
    assert {(row["class_name"], row["endpoint"]) for row in rows} == {(name, url) for name in classes for url in endpoints}
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(word in page and word in ended.stdout for word in ("interactive", "background", "Jain", quick))
    assert bmp("verify", str(run), cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_server_that_dies_in_mid_run_is_failures_of_its_requests(tmp_path: Path) -> None:
    async def main() -> tuple[str, str]:
        async with ReferenceServer(QUICK) as one:
            async with ReferenceServer(QUICK) as other:
                words = (
                    "--base-url",
                    one.url,
                    "--base-url",
                    other.url,
                    "--request-rate",
                    "50",
                    "--num-prompts",
                    "150",
                    "--max-error-rate",
                    "1",
                )
                process = start(*COMMAND, *words, cwd=tmp_path)
                await asyncio.to_thread(wait_for_records, tmp_path, 30, process)
            await asyncio.to_thread(process.communicate, timeout=60)
            return one.url, other.url

    alive, dead = asyncio.run(main())
    (summary_file,) = tmp_path.glob("runs/*/summary.json")
    outcomes = {url: group["outcomes"] for url, group in json.loads(summary_file.read_text())["endpoints"].items()}
    assert (outcomes[alive]["failed"], outcomes[alive]["ok"]) == (0, 75)
    assert outcomes[dead]["failed"] > 30
    assert outcomes[dead]["failed"] + outcomes[dead]["ok"] == 75
