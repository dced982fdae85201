"""The files that a run leaves besides the run folder's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.export.perfetto import export_timeline
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import part, read_run_json
from bytemlperf.runs.records import RunRecords
from bytemlperf_llm.export.llm_d import LlmDReport
from bytemlperf_llm.export.otlp_traces import Choice, facts_of, send_traces
from bytemlperf_llm.export.tables import CsvTable, ParquetTable
from bytemlperf_llm.export.vllm_json import DATE_FORMAT, METRICS, VllmSetup, vllm_result, write_vllm_json
from bytemlperf_llm.metrics.facts import SloMs, facts_from
from bytemlperf_llm.plan.files import Files, VllmFile
from bytemlperf_llm.plan.scenario import scenario_of
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.rebuild import clock_origin_ns
from bytemlperf_llm.workload.schedule import ramp_of

VLLM_BACKENDS = {
    "completions": "openai",
    "responses": "openai-responses",
    "embeddings": "openai-embeddings",
    "rerank": "vllm-rerank",
}


class Sink(Protocol):
    """A file that takes records as they are read."""

    def add(self, record: RequestRecord) -> None:
        """Take one in. Raises UserError."""

    def close(self, run: dict[str, Any]) -> None:
        """Write what is left; `run` is run.json as the run has ended. Raises UserError."""


class Exports:
    """The files that were asked for, and the traces: all made in the one walk over the records that the summary is made of. What
    can't be written ends its own file alone, and is said at the end. Without anything to make it is false."""

    def __init__(self, folder: Path, files: Files, issued: int) -> None:
        self.said: dict[str, str] = {}
        self._problems: list[UserError] = []
        self._sinks: list[Sink] = []
        if files.csv:
            self._open(lambda: CsvTable(folder / "records.csv"))
        if files.parquet:
            self._open(lambda: ParquetTable(folder / "records.parquet"))
        if files.llm_d:
            self._open(lambda: LlmDReport(folder))
        if (vllm := files.vllm) is not None:
            self._open(lambda: _VllmJson(folder, vllm))
        self._traces = None if files.traces_url is None else _Traces(folder, files.traces_url, issued)

    def __bool__(self) -> bool:
        return bool(self._sinks or self._traces)

    def _open(self, make: Callable[[], Sink]) -> None:
        try:
            self._sinks.append(make())
        except UserError as error:
            self._problems.append(error)

    def add(self, record: RequestRecord) -> None:
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


def export(folder: Path, files: Files, *, perfetto: bool = False) -> bool:
    """The same files of a run that has ended, from its records; whether one could not be written. Raises UserError."""
    run = read_run_json(folder)
    if perfetto:
        print(f"timeline: {export_timeline(folder, run)}")
        if not (files.csv or files.parquet or files.llm_d or files.vllm or files.traces_url):
            return False
    if run.get("kind") != "llm":
        raise UserError(f"{folder} is a run of kind {run.get('kind')}, not of LLM serving", "name a folder of `bmp-llm serve-bench`")
    records: RunRecords[RequestRecord] = RunRecords(folder, RequestRecord)
    exports = Exports(folder, files, part(run, "end").get("issued_requests") or 0)
    if not exports:
        raise UserError("nothing says which file to write", "give --perfetto, --llm-d, --csv, --parquet, --save-result or --otlp")
    with damage_said(folder):
        for record in records:
            exports.add(record)
        failed = exports.close(run)
    for name, text in exports.said.items():
        print(f"{name}: {text}")
    return failed


class _Traces:
    """The requests of which traces are sent."""

    def __init__(self, folder: Path, url: str, issued: int) -> None:
        self._folder, self._url, self._issued = folder, url, issued
        self._choose = Choice(issued)
        self._chosen: list[RequestRecord] = []

    def add(self, record: RequestRecord) -> None:
        if self._choose(record):
            self._chosen.append(record)

    def send(self, run: dict[str, Any]) -> str:
        sent = send_traces(self._url, facts_of(self._folder, run), self._chosen)
        return f"{sent:,} requests" + (f" of {self._issued:,}" if sent < self._issued else "")


class _VllmJson:
    """vLLM's result file; it needs all records at once."""

    def __init__(self, folder: Path, file: VllmFile) -> None:
        self._folder, self._file = folder, file
        self._records: list[RequestRecord] = []
        self.add = self._records.append

    def close(self, run: dict[str, Any]) -> None:
        file, facts = self._file, facts_from(run, self._folder)
        if not file.goodput:  # vLLM has no service levels of a scenario
            facts = msgspec.structs.replace(facts, slo_ms=SloMs())
        setup = _vllm_setup(run, file)
        result = vllm_result(self._records, facts, setup, percentiles=file.percentiles, detailed=file.detailed)
        unwanted = tuple(f"_{name}_ms" for name in METRICS if name not in file.metrics)
        kept = {key: value for key, value in result.items() if not key.endswith(unwanted)}
        write_vllm_json((file.folder or self._folder) / file.name, kept)


def _vllm_setup(run: dict[str, Any], file: VllmFile) -> VllmSetup:
    model = run["engine"].get("model") or "none"
    return VllmSetup(
        date=datetime.fromisoformat(run["started_at"]).strftime(DATE_FORMAT),
        backend=_backend(run),
        model_id=model,
        tokenizer_id=file.tokenizer or model,
        label=file.label,
        num_prompts=run["facts"]["scheduled_requests"],
        metadata=run["config"]["metadata"],
        clock_origin_ns=clock_origin_ns(run) or 0,
        ramp=ramp_of(scenario_of(run)),
    )


def _backend(run: dict[str, Any]) -> str:
    """vLLM's own names where it has one for the same thing."""
    if run["engine"]["name"] != "openai":
        return str(run["engine"]["name"])
    return VLLM_BACKENDS.get(run["engine"].get("api"), "openai-chat")
