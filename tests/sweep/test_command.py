"""`bmp-llm sweep` on the reference engine, in this process: real load, real run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.cli import app

ENGINE = ("--engine", "reference", "--engine-option", "ttft_ms=2", "--engine-option", "itl_ms=1", "--num-warmups", "0", "--no-report")
SHORT = (*ENGINE, "--output-len", "4", "--num-prompts", "20")


def sweep(tmp_path: Path, *words: str) -> tuple[int, Path]:
    result = CliRunner().invoke(app, ["sweep", *words, "--runs-dir", str(tmp_path), "--quiet"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, Path(result.stdout.strip().splitlines()[-1])


def points(folder: Path) -> list[dict[str, Any]]:
    return [point for curve in json.loads((folder / "sweep.json").read_bytes())["curves"] for point in curve["points"]]


def test_every_point_is_an_ordinary_run_and_all_of_them_a_run_too(tmp_path: Path) -> None:
    status, folder = sweep(tmp_path, *SHORT, "--rates", "40,80", "--input-len", "8,16")
    assert status == 0
    rows = points(folder)
    assert [(row["curve"], row["load"]["rate_rps"]) for row in rows] == [
        (curve, rate) for curve in ("input 8", "input 16") for rate in (40.0, 80.0)
    ]
    runs = [json.loads((folder / row["folder"] / "run.json").read_bytes()) for row in rows]
    assert [run["config"]["scenario"]["arrival"]["rate"] for run in runs] == [40.0, 80.0, 40.0, 80.0]
    assert [run["config"]["scenario"]["prompts"]["synthetic"]["tokens"]["value"] for run in runs] == [8, 8, 16, 16]
    assert len({run["seed"] for run in runs}) == 4  # no prompt comes twice, or a cache would make the later points faster
    summaries = [json.loads((folder / row["folder"] / "summary.json").read_bytes()) for row in rows]
    medians = [summary["metrics"]["ttft"]["percentiles"]["50"] / 1e6 for summary in summaries]
    assert [row["figures"]["ttft p50"]["value"] for row in rows] == medians
    assert verify_suite(folder).findings == []
