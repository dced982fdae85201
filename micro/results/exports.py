"""Rows in xpu-perf's field names, for tools that read its reports.

A line is `{"sku_name", "op_name", "provider", "arguments", "targets", …}`; units stand in the names of the
targets. Where xpu-perf has a mean of some iterations, `latency(us)` here is the median. A case without a
result keeps empty targets, and says why in `case_status` and `reason`, which xpu-perf leaves out.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.report.text import guard_formula
from bytemlperf.runs.files import damage_said, writing
from bytemlperf.runs.folder import read_run_of
from bytemlperf.runs.records import RunRecords
from micro.cases.case import Arguments
from micro.registry import OPERATORS
from micro.sweep.row import Row, Status, last_rows

NAME = "xpu-perf"
DIGITS = 3
RATE_DIGITS = 6  # a CPU's TFLOP/s have zeros behind the point


def export_run(folder: Path, paths: Iterable[Path]) -> None:
    """Write each path by its ending. Raises UserError for a folder of another kind, another ending, or a place that can't be written."""
    for path in paths:
        if path.suffix not in WRITERS:
            raise UserError(f"--out {path} has no known ending", f"name a file that ends in {' or '.join(WRITERS)}")
    run = read_run_of(folder, "micro", "name a run of bmp micro")
    with damage_said(folder):
        rows = last_rows(RunRecords(folder, Row))
        for path in paths:
            WRITERS[path.suffix](path, run, rows)


class XpuPerfRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line."""

    sku_name: str
    op_name: str
    provider: str
    arguments: Arguments
    targets: dict[str, float | list[float]]
    kernels: list[str] = []
    case_status: Status
    reason: str


def write_jsonl(path: Path, run: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """One object a line. Raises UserError."""
    sku = sku_name(run)
    lines = b"".join(msgspec.json.encode(xpu_perf_row(row, sku)) + b"\n" for row in rows)
    with writing(path, "give a file in a folder that you can write"):
        path.write_bytes(lines)


def write_csv(path: Path, run: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """One line a case: arguments and targets as columns, of all operators together. Raises UserError."""
    sku = sku_name(run)
    lines = [xpu_perf_row(row, sku) for row in rows]
    arguments = list(dict.fromkeys(name for line in lines for name in line.arguments))
    targets = list(dict.fromkeys(name for line in lines for name in line.targets))
    with writing(path, "give a file in a folder that you can write"), path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku_name", "op_name", "provider", *arguments, *targets, "case_status", "reason"])
        for line in lines:
            values = [*(line.arguments.get(name, "") for name in arguments), *(line.targets.get(name, "") for name in targets)]
            cells = (line.sku_name, line.op_name, line.provider, *values, line.case_status, line.reason)
            writer.writerow([_cell(value) for value in cells])


def sku_name(run: Mapping[str, Any]) -> str:
    """The device's name as its driver reports it; of a CPU the model."""
    runners = (run.get("end") or {}).get("runners") or {}
    device = (runners.get("worker") or {}).get("device_name") or ""
    if device and device != "CPU":
        return str(device)
    cpu = (((run.get("environment") or {}).get("hardware") or {}).get("cpu") or {}).get("model")
    return str(cpu or device or "unknown")


def xpu_perf_row(row: Row, sku: str) -> XpuPerfRow:
    """A row as xpu-perf writes it."""
    operator = OPERATORS.get(row.op)
    targets: dict[str, float | list[float]] = {}
    if row.status == "ok" and row.latency_us is not None:
        is_collective = operator is not None and operator.runner == "ranks"
        targets = _collective_targets(row, row.latency_us.p50) if is_collective else _compute_targets(row, row.latency_us.p50)
    return XpuPerfRow(
        sku_name=sku,
        op_name=row.op,
        provider=row.provider,
        arguments={"arg_type": "default", **row.args},
        targets=targets,
        case_status=row.status,
        reason=row.reason,
    )


def _compute_targets(row: Row, p50_us: float) -> dict[str, float | list[float]]:
    targets: dict[str, float | list[float]] = {
        "latency(us)": round(p50_us, DIGITS),
        "read_bytes(B)": row.read_bytes or 0,
        "write_bytes(B)": row.write_bytes or 0,
        "io_bytes(B)": row.bytes or 0,
        "mem_bw(GB/s)": round(row.mem_bw_gbs or 0.0, DIGITS),
        "calc_flops": row.flops or 0,
        "calc_flops_power(tflops)": round(row.tflops or 0.0, RATE_DIGITS),
        "calc_mem_ratio": round(row.intensity or 0.0, DIGITS),
    }
    share = (row.efficiency or {}).get("mfu_sheet")
    if share and row.tflops:  # as there: only where a nominal peak is known
        targets |= {"peak_tflops": round(row.tflops / share, DIGITS), "mfu": round(share, 4)}
    return targets


def _collective_targets(row: Row, p50_us: float) -> dict[str, float | list[float]]:
    """Bandwidths of each rank come from its own latency."""
    alg_gbs, bus_gbs = row.alg_bw_gbs or 0.0, row.bus_bw_gbs or 0.0
    alg_bytes, factor = round(alg_gbs * p50_us * 1e3), bus_gbs / alg_gbs if alg_gbs else 0.0
    by_rank_us = [rank.latency_us.p50 for rank in row.ranks or []]
    alg = [alg_bytes / us / 1e3 for us in by_rank_us if us]
    return {
        "latency(us)": round(p50_us, DIGITS),
        "algo_size(B)": alg_bytes,
        "bus_size(B)": alg_bytes * factor,
        "algo_bw(GB/s)": round(alg_gbs, DIGITS),
        "bus_bw(GB/s)": round(bus_gbs, DIGITS),
        "algo_bw_sum(GB/s)": round(sum(alg), DIGITS),
        "bus_bw_sum(GB/s)": round(sum(alg) * factor, DIGITS),
        "latency_list(us)": _rounded(by_rank_us),
        "algo_bw_list(GB/s)": _rounded(alg),
        "bus_bw_list(GB/s)": _rounded([value * factor for value in alg]),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def _cell(value: object) -> object:
    if isinstance(value, list | dict):
        return json.dumps(value)
    return guard_formula(value) if isinstance(value, str) else value


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl}
