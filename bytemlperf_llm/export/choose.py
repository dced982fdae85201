"""Which files a run leaves besides the run folder's own, by the flags."""

from __future__ import annotations

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import sends_plain_prompts

DEFAULT_RESULT_NAME = "vllm-bench.json"


def check_exports(flags: Flags) -> None:
    """Before anything starts: could they be written? Raises UserError."""
    from bytemlperf.export.formula_guard import INSTALL_COMMAND
    from bytemlperf.statistics.statistics import parse_percentile
    from bytemlperf_llm.export.vllm_json import METRICS

    if flags.parquet and find_spec("polars") is None:
        raise UserError("--parquet needs polars, which is not installed", INSTALL_COMMAND)
    for text in _words(flags.metric_percentiles):
        try:
            parse_percentile(text)
        except ValueError:
            raise UserError(f"--metric-percentiles {text!r} is not a percentile", "give numbers between 0 and 100, as in 50,99") from None
    for name in _words(flags.percentile_metrics):
        if name not in METRICS:
            raise UserError(f"--percentile-metrics {name!r} is unknown", f"give some of {','.join(METRICS)}")
    if flags.result_dir is not None:
        try:
            flags.result_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't make --result-dir {flags.result_dir}: {error.strerror}", "give a writable folder") from None


def write_exports(folder: Path, flags: Flags) -> list[Path]:
    """Write what was asked for; returns the files. Raises UserError where one can't be written."""
    from bytemlperf_llm.export.tables import write_csv, write_parquet
    from bytemlperf_llm.record.reader import RunReader

    reader = RunReader(folder)
    written: list[Path] = []
    if flags.csv:
        written.append(folder / "records.csv")
        write_csv(written[-1], reader.records())
    if flags.parquet:
        written.append(folder / "records.parquet")
        write_parquet(written[-1], reader.records())
    if flags.save_result:
        written.append((flags.result_dir or folder) / (flags.result_filename or DEFAULT_RESULT_NAME))
        _write_vllm_json(written[-1], reader, flags)
    return written


def _write_vllm_json(path: Path, reader: Any, flags: Flags) -> None:
    from bytemlperf_llm.export.vllm_json import DATE_FORMAT, METRICS, VllmSetup, vllm_result, write_vllm_json
    from bytemlperf_llm.metrics.facts import SloMs, facts_from
    from bytemlperf_llm.plan.scenario import scenario_of
    from bytemlperf_llm.workload.schedule import ramp_of

    run = reader.run
    model = run["engine"].get("model") or "none"
    setup = VllmSetup(
        date=datetime.fromisoformat(run["started_at"]).strftime(DATE_FORMAT),
        backend=_backend(run),
        model_id=model,
        tokenizer_id=flags.tokenizer or model,
        label=flags.label,
        num_prompts=run["facts"]["scheduled_requests"],
        metadata=run["config"]["metadata"],
        clock_origin_ns=run.get("clock_origin_ns", 0),
        ramp=ramp_of(scenario_of(run)),
    )
    facts = facts_from(run, reader.folder)
    if not flags.goodput:  # vLLM has no service levels of a scenario
        facts = msgspec.structs.replace(facts, slo_ms=SloMs())
    percentiles = _words(flags.metric_percentiles)
    result = vllm_result(reader.records(), facts, setup, percentiles=percentiles, detailed=flags.save_detailed)
    unwanted = tuple(f"_{name}_ms" for name in METRICS if name not in _words(flags.percentile_metrics))
    write_vllm_json(path, {key: value for key, value in result.items() if not key.endswith(unwanted)})


def _backend(run: dict[str, Any]) -> str:
    """vLLM's own names where it has one for the same thing."""
    if run["engine"]["name"] != "openai":
        return str(run["engine"]["name"])
    return "openai" if sends_plain_prompts(run["config"]["engine_options"]) else "openai-chat"


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
