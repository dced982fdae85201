"""Which files a run leaves besides the run folder's own, by the flags."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import sends_plain_prompts
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.rebuild import clock_origin_ns

if TYPE_CHECKING:
    from bytemlperf_llm.export.vllm_json import VllmSetup

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


class Sink(Protocol):
    """A file that takes records as they are read."""

    def add(self, record: RequestRecord) -> None:
        """Take one in. Raises UserError."""

    def close(self, run: dict[str, Any]) -> None:
        """Write what is left; `run` is run.json as the run has ended. Raises UserError."""


class Exports:
    """The files that were asked for, and the traces: all made in the one walk over the records that the summary is made of. What
    can't be written ends its own file alone, and is said at the end. Without anything to make it is false."""

    def __init__(self, folder: Path, flags: Flags, issued: int) -> None:
        from bytemlperf_llm.export.tables import CsvTable, ParquetTable

        self.said: dict[str, str] = {}
        self._problems: list[UserError] = []
        self._sinks: list[Sink] = []
        if flags.csv:
            self._open(lambda: CsvTable(folder / "records.csv"))
        if flags.parquet:
            self._open(lambda: ParquetTable(folder / "records.parquet"))
        if flags.save_result:
            self._open(lambda: _VllmJson(folder, flags))
        self._traces = None if flags.otlp is None else _Traces(folder, flags.otlp, issued)

    def __bool__(self) -> bool:
        return bool(self._sinks or self._traces)

    def _open(self, make: Callable[[], Sink]) -> None:
        try:
            self._sinks.append(make())
        except UserError as error:
            self._problems.append(error)

    def add(self, record: RequestRecord) -> None:
        """Take one in."""
        for sink in tuple(self._sinks):
            try:
                sink.add(record)
            except UserError as error:
                self._problems.append(error)
                self._sinks.remove(sink)
        if self._traces is not None:
            self._traces.add(record)

    def close(self, run: dict[str, Any]) -> bool:
        """Write what is left, then send the traces, which can fail nothing; whether a file could not be written."""
        for sink in self._sinks:
            try:
                sink.close(run)
            except UserError as error:
                self._problems.append(error)
        for problem in self._problems:
            print(f"warning: {problem.cause}; the records are kept: {problem.fix}", file=sys.stderr)
        if self._traces is not None and not self._problems:
            try:
                self.said["traces"] = self._traces.send(run)
            except UserError as error:
                print(f"warning: {error.cause}; {error.fix}", file=sys.stderr)
        return bool(self._problems)


class _Traces:
    """The requests of which traces are sent."""

    def __init__(self, folder: Path, url: str, issued: int) -> None:
        from bytemlperf_llm.export.otlp_traces import Choice

        self._folder, self._url, self._issued = folder, url, issued
        self._choose = Choice(issued)
        self._chosen: list[RequestRecord] = []

    def add(self, record: RequestRecord) -> None:
        if self._choose(record):
            self._chosen.append(record)

    def send(self, run: dict[str, Any]) -> str:
        from bytemlperf_llm.export.otlp_traces import facts_of, send_traces

        sent = send_traces(self._url, facts_of(self._folder, run), self._chosen)
        return f"{sent:,} requests" + (f" of {self._issued:,}" if sent < self._issued else "")


class _VllmJson:
    """vLLM's result file; it needs all records at once."""

    def __init__(self, folder: Path, flags: Flags) -> None:
        self._folder, self._flags = folder, flags
        self._records: list[RequestRecord] = []
        self.add = self._records.append

    def close(self, run: dict[str, Any]) -> None:
        from bytemlperf_llm.export.vllm_json import METRICS, vllm_result, write_vllm_json
        from bytemlperf_llm.metrics.facts import SloMs, facts_from

        flags, facts = self._flags, facts_from(run, self._folder)
        if not flags.goodput:  # vLLM has no service levels of a scenario
            facts = msgspec.structs.replace(facts, slo_ms=SloMs())
        percentiles = _words(flags.metric_percentiles)
        result = vllm_result(self._records, facts, _vllm_setup(run, flags), percentiles=percentiles, detailed=flags.save_detailed)
        unwanted = tuple(f"_{name}_ms" for name in METRICS if name not in _words(flags.percentile_metrics))
        path = (flags.result_dir or self._folder) / (flags.result_filename or DEFAULT_RESULT_NAME)
        write_vllm_json(path, {key: value for key, value in result.items() if not key.endswith(unwanted)})


def _vllm_setup(run: dict[str, Any], flags: Flags) -> VllmSetup:
    from bytemlperf_llm.export.vllm_json import DATE_FORMAT, VllmSetup
    from bytemlperf_llm.plan.scenario import scenario_of
    from bytemlperf_llm.workload.schedule import ramp_of

    model = run["engine"].get("model") or "none"
    return VllmSetup(
        date=datetime.fromisoformat(run["started_at"]).strftime(DATE_FORMAT),
        backend=_backend(run),
        model_id=model,
        tokenizer_id=flags.tokenizer or model,
        label=flags.label,
        num_prompts=run["facts"]["scheduled_requests"],
        metadata=run["config"]["metadata"],
        clock_origin_ns=clock_origin_ns(run) or 0,
        ramp=ramp_of(scenario_of(run)),
    )


def _backend(run: dict[str, Any]) -> str:
    """vLLM's own names where it has one for the same thing."""
    if run["engine"]["name"] != "openai":
        return str(run["engine"]["name"])
    return "openai" if sends_plain_prompts(run["config"]["engine_options"]) else "openai-chat"


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
