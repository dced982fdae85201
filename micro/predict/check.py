"""The prediction beside what an engine really does here: `bmp-llm serve-bench` of the same model and lengths.

The load is a closed loop of `batch` streams. Means are compared, since a prediction is one of the mean;
TTFT and TPOT are serve-bench's, so what the engine, its scheduler and its tokenizer add is in them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bytemlperf.child.process import environment
from bytemlperf.errors import UserError
from bytemlperf.runs.verdicts import SOUND
from bytemlperf.units import NS_PER_MS
from micro.predict.prediction import Prediction

ENGINES = {"transformers": ("torch", "sdpa"), "vllm": ("torch", "sdpa", "onednn", "vllm")}
"""Those that run in this process's machine, and the providers whose kernels they use."""

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


class Checked(NamedTuple):
    """What was compared, the engine's words about itself, and the run folder."""

    engine: str
    run: Path
    command: list[str]
    figures: list[Compared]
    device: str
    dtype: str
    notes: list[str]


def serve_bench_arguments(engine: str, model: str, prediction: Prediction, threads: int, runs_dir: Path) -> list[str]:
    """`bmp-llm`'s arguments for the same work as the prediction's."""
    load = prediction.load
    options = [f"dtype={prediction.dtype}", "enable_prefix_caching=false"]
    if engine == "transformers":
        options.append(f"threads={threads}")
    elif load.tp > 1:
        options.append(f"tensor_parallel_size={load.tp}")
    return [
        "serve-bench",
        *("--engine", engine, "--model", model),
        *(word for option in options for word in ("--engine-option", option)),
        *("--input-len", str(load.input_len), "--output-len", str(load.output_len), "--ignore-eos"),
        *("--max-concurrency", str(load.batch), "--num-prompts", str(max(FEWEST_PROMPTS, ROUNDS * load.batch))),
        *("--num-warmups", str(load.batch), "--runs-dir", str(runs_dir)),
    ]


def check(engine: str, model: str, prediction: Prediction, threads: int, runs_dir: Path) -> Checked:
    """Run the engine and compare. Raises UserError where it can't be run, or its run is no measurement."""
    arguments = serve_bench_arguments(engine, model, prediction, threads, runs_dir)
    before = set(runs_dir.glob("*")) if runs_dir.is_dir() else set()
    code = "from bytemlperf_llm.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment(), check=False)
    folders = sorted(set(runs_dir.glob("*")) - before) if runs_dir.is_dir() else []
    if not folders or not (folders[-1] / "summary.json").is_file():
        words = " ".join((done.stderr or done.stdout).split())[-LAST_WORDS:]
        raise UserError(f"serve-bench produced no run: {words or 'no message'}", f"run it alone: bmp-llm {' '.join(arguments)}")
    return compare(engine, folders[-1], ["bmp-llm", *arguments], prediction)


def compare(engine: str, folder: Path, command: list[str], prediction: Prediction) -> Checked:
    """From the run's summary. Raises UserError where its verdict says that its figures are not the engine's."""
    summary = json.loads((folder / "summary.json").read_bytes())
    if summary["verdict"] not in SOUND:
        raise UserError(f"the run to compare with is {summary['verdict']}: {'; '.join(summary['reasons'])}", f"see {folder}")
    described = json.loads((folder / "run.json").read_bytes())["engine"]
    metrics, rates = summary["metrics"], summary["rates"]
    figures = [_milliseconds("TTFT", prediction.ttft_ms, metrics["ttft"])]
    if prediction.tpot_ms is not None:
        figures.append(_milliseconds("TPOT", prediction.tpot_ms, metrics["tpot"]))
    figures.append(_milliseconds("E2E", prediction.e2e_ms, metrics["e2e"]))
    figures.append(
        Compared("output throughput", "tokens/s", prediction.output_tokens_per_s, float(rates["output_token_throughput"]["value"]))
    )
    return Checked(engine, folder, command, figures, described.get("device", ""), described.get("dtype", ""), described.get("notes", []))


def _milliseconds(name: str, predicted_ms: float, metric: dict[str, Any]) -> Compared:
    interval = (metric.get("ci95") or {}).get("mean")
    low, high = (value / NS_PER_MS for value in interval) if isinstance(interval, list) else (None, None)
    return Compared(name, "ms", predicted_ms, metric["mean"] / NS_PER_MS, low, high)
