"""Which files a run leaves besides its folder's own, resolved before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bytemlperf.errors import UserError
from bytemlperf.extras import require
from bytemlperf.statistics.statistics import parse_percentile
from bytemlperf_llm.export.vllm_json import METRICS
from bytemlperf_llm.plan.flags import Flags

DEFAULT_RESULT_NAME = "vllm-bench.json"


@dataclass(frozen=True, kw_only=True)
class VllmFile:
    """vLLM's result file. `folder` None is the run folder; `metrics` and `percentiles` are those that it has; `goodput` is whether the
    service levels were given on the command line, as vLLM's are; `tokenizer` and `label` are as given there."""

    folder: Path | None
    name: str
    metrics: tuple[str, ...]
    percentiles: tuple[str, ...]
    detailed: bool
    goodput: bool
    tokenizer: str | None
    label: str | None


@dataclass(frozen=True, kw_only=True)
class Files:
    """`traces_url` is where the requests go as traces."""

    csv: bool
    parquet: bool
    llm_d: bool
    vllm: VllmFile | None
    traces_url: str | None


def files_of(flags: Flags) -> Files:
    """Could they be written? Makes the folder that one is for. Raises UserError."""
    if (flags.result_dir or flags.result_filename or flags.save_detailed) and not flags.save_result:
        raise UserError("--result-dir, --result-filename and --save-detailed do nothing alone", "add --save-result")
    if flags.parquet:
        require("--parquet", "analysis", "polars")
    vllm = VllmFile(
        folder=flags.result_dir,
        name=flags.result_filename or DEFAULT_RESULT_NAME,
        metrics=_metrics(flags.percentile_metrics),
        percentiles=_percentiles(flags.metric_percentiles),
        detailed=flags.save_detailed,
        goodput=bool(flags.goodput),
        tokenizer=flags.tokenizer,
        label=flags.label,
    )
    if flags.result_dir is not None:
        try:
            flags.result_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't make --result-dir {flags.result_dir}: {error.strerror}", "give a writable folder") from None
    return Files(csv=flags.csv, parquet=flags.parquet, llm_d=flags.llm_d, vllm=vllm if flags.save_result else None, traces_url=flags.otlp)


def _metrics(text: str) -> tuple[str, ...]:
    names = _words(text)
    for name in names:
        if name not in METRICS:
            raise UserError(f"--percentile-metrics {name!r} is unknown", f"give some of {','.join(METRICS)}")
    return names


def _percentiles(text: str) -> tuple[str, ...]:
    percentiles = _words(text)
    for percentile in percentiles:
        try:
            parse_percentile(percentile)
        except ValueError:
            fix = "give numbers between 0 and 100, as in 50,99"
            raise UserError(f"--metric-percentiles {percentile!r} is not a percentile", fix) from None
    return percentiles


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
