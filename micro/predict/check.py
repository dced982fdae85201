"""The prediction beside what an engine really does here: `bmp-llm serve-bench` of the same model and lengths.

The load is a closed loop of `batch` streams. Means are compared, since a prediction is one of the mean.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bytemlperf.child.process import environment
from bytemlperf.errors import UserError
from bytemlperf.units import NS_PER_MS
from micro.predict.prediction import Load
from micro.predict.schedule import Served

ENGINES = {"transformers": ("torch", "sdpa"), "vllm": ("torch", "sdpa", "onednn", "vllm")}
"""Those that run in this process's machine, and the providers whose kernels they use."""

LAYERED = ("openvino",)
"""Those whose operators are layers (`micro.predict.layers`)."""

ONE_RANK = ("transformers", *LAYERED)

ROUNDS = 4
FEWEST_PROMPTS = 8
LAST_WORDS = 400


class Compared(NamedTuple):
    """One figure; `error` is predicted / measured − 1. `low`, `high`: the measured mean's 95 % interval."""

    name: str
    unit: str
    predicted: float
    measured: float
    low: float | None = None
    high: float | None = None

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


class Mean(NamedTuple):
    """In milliseconds. `low`, `high`: its 95 % interval."""

    mean_ms: float
    low_ms: float | None
    high_ms: float | None


class Measured(NamedTuple):
    """An engine's figures, its words about itself, and the run folder. `tpot` is None where one token was asked for."""

    run: Path
    ttft: Mean
    tpot: Mean | None
    e2e: Mean
    output_tokens_per_s: float
    device: str
    dtype: str
    notes: list[str]


class Checked(NamedTuple):
    """What was compared, and how it was measured."""

    engine: str
    command: list[str]
    figures: list[Compared]
    measured: Measured


def requests_of(load: Load) -> int:
    """So many are sent."""
    return max(FEWEST_PROMPTS, ROUNDS * load.batch)


def serve_bench_arguments(engine: str, model: str, dtype: str, load: Load, threads: int, runs_dir: Path) -> list[str]:
    """`bmp-llm`'s arguments for this work."""
    options = [f"dtype={dtype}", "enable_prefix_caching=false"]
    if engine in ONE_RANK:
        options.append(f"threads={threads}")
    elif load.tp > 1:
        options.append(f"tensor_parallel_size={load.tp}")
    return [
        "serve-bench",
        *("--engine", engine, "--model", model),
        *(word for option in options for word in ("--engine-option", option)),
        *("--input-len", str(load.input_len), "--output-len", str(load.output_len), "--ignore-eos"),
        *("--max-concurrency", str(load.batch), "--num-prompts", str(requests_of(load))),
        *("--num-warmups", str(load.batch), "--runs-dir", str(runs_dir)),
    ]


def measure(arguments: list[str], runs_dir: Path) -> Measured:
    """Run it. Raises UserError where it can't be run, or its run is no measurement."""
    before = set(runs_dir.glob("*")) if runs_dir.is_dir() else set()
    code = "from bytemlperf_llm.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment(), check=False)
    folders = sorted(set(runs_dir.glob("*")) - before) if runs_dir.is_dir() else []
    if not folders or not (folders[-1] / "summary.json").is_file():
        words = " ".join((done.stderr or done.stdout).split())[-LAST_WORDS:]
        raise UserError(f"serve-bench produced no run: {words or 'no message'}", f"run it alone: bmp-llm {' '.join(arguments)}")
    return read_measured(folders[-1])


def read_measured(folder: Path) -> Measured:
    """From a run's summary. Raises UserError where its verdict is not valid."""
    summary = json.loads((folder / "summary.json").read_bytes())
    if summary["verdict"] != "valid":
        raise UserError(f"the run to compare with is {summary['verdict']}: {'; '.join(summary['reasons'])}", f"see {folder}")
    described, metrics = json.loads((folder / "run.json").read_bytes())["engine"], summary["metrics"]
    return Measured(
        folder,
        _mean(metrics["ttft"]),
        _mean(metrics["tpot"]) if "tpot" in metrics else None,
        _mean(metrics["e2e"]),
        float(summary["rates"]["output_token_throughput"]["value"]),
        *(described.get("device", ""), described.get("dtype", ""), described.get("notes", [])),
    )


def compare(engine: str, command: list[str], served: Served, measured: Measured) -> Checked:
    """Predicted beside measured."""
    pairs = [("TTFT", served.ttft_ms, measured.ttft), ("TPOT", served.tpot_ms, measured.tpot), ("E2E", served.e2e_ms, measured.e2e)]
    figures = [Compared(name, "ms", ms, *mean) for name, ms, mean in pairs if ms is not None and mean is not None]
    rate = Compared("output throughput", "tokens/s", served.output_tokens_per_s, measured.output_tokens_per_s)
    return Checked(engine, command, [*figures, rate], measured)


def _mean(metric: dict[str, Any]) -> Mean:
    interval = (metric.get("ci95") or {}).get("mean")
    low, high = (value / NS_PER_MS for value in interval) if isinstance(interval, list) else (None, None)
    return Mean(metric["mean"] / NS_PER_MS, low, high)
