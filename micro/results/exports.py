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

from bytemlperf.errors import UserError
from bytemlperf.export.formula_guard import guard_formula
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.records import suite_records
from micro.registry import OPERATORS
from micro.sweep.row import last_rows

CSV_NAME, JSONL_NAME = "xpu-perf.csv", "xpu-perf.jsonl"
DIGITS = 3
RATE_DIGITS = 6  # a CPU's TFLOP/s have zeros behind the point


def export_run(folder: Path, paths: Iterable[Path]) -> None:
    """Write each path by its ending. Raises UserError for a folder of another kind, another ending, or a place that can't be written."""
    for path in paths:
        if path.suffix not in WRITERS:
            raise UserError(f"--out {path} has no known ending", f"name a file that ends in {' or '.join(WRITERS)}")
    run = read_run_json(folder)
    if run.get("kind") != "micro":
        raise UserError(f"{folder} is a run of kind {run.get('kind')}", "name a run of bmp micro")
    with damage_said(folder):
        rows = last_rows(suite_records(folder))
        for path in paths:
            WRITERS[path.suffix](path, run, rows)


def write_jsonl(path: Path, run: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """One object a line. Raises UserError."""
    sku = sku_name(run)
    text = "".join(json.dumps(xpu_perf_row(row, sku), ensure_ascii=False) + "\n" for row in rows)
    _write(path, lambda: path.write_text(text, encoding="utf-8"))


def write_csv(path: Path, run: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """One line a case: arguments and targets as columns, of all operators together. Raises UserError."""
    sku = sku_name(run)
    lines = [_flat(xpu_perf_row(row, sku)) for row in rows]
    order = ("sku_name", "op_name", "provider")
    arguments = list(dict.fromkeys(name for line in lines for name in line["arguments"]))
    targets = list(dict.fromkeys(name for line in lines for name in line["targets"]))

    def write() -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*order, *arguments, *targets, "case_status", "reason"])
            for line in lines:
                named = [line[name] for name in order]
                values = [line["arguments"].get(name, "") for name in arguments] + [line["targets"].get(name, "") for name in targets]
                writer.writerow([_cell(value) for value in (*named, *values, line["case_status"], line["reason"])])

    _write(path, write)


def sku_name(run: Mapping[str, Any]) -> str:
    """The device's name as its driver reports it; of a CPU the model."""
    runners = (run.get("end") or {}).get("runners") or {}
    device = (runners.get("worker") or {}).get("device_name") or ""
    if device and device != "CPU":
        return str(device)
    cpu = (((run.get("environment") or {}).get("hardware") or {}).get("cpu") or {}).get("model")
    return str(cpu or device or "unknown")


def xpu_perf_row(row: Mapping[str, Any], sku: str) -> dict[str, Any]:
    """One record of records.jsonl as xpu-perf writes it."""
    operator = OPERATORS.get(row["op"])
    is_collective = operator is not None and operator.runner == "ranks"
    targets: dict[str, Any] = {}
    if row["status"] == "ok":
        targets = _collective_targets(row) if is_collective else _compute_targets(row)
    return {
        "sku_name": sku,
        "op_name": row["op"],
        "provider": row["provider"],
        "arguments": {"arg_type": "default", **row["args"]},
        "targets": targets,
        "kernels": [],
        "case_status": row["status"],
        "reason": row["reason"],
    }


def _compute_targets(row: Mapping[str, Any]) -> dict[str, Any]:
    latency, shares = row["latency_us"], row.get("efficiency") or {}
    targets: dict[str, Any] = {
        "latency(us)": round(latency["p50"], DIGITS),
        "read_bytes(B)": row["read_bytes"],
        "write_bytes(B)": row["write_bytes"],
        "io_bytes(B)": row["bytes"],
        "mem_bw(GB/s)": round(row["mem_bw_gbs"] or 0.0, DIGITS),
        "calc_flops": row["flops"],
        "calc_flops_power(tflops)": round(row["tflops"] or 0.0, RATE_DIGITS),
        "calc_mem_ratio": round(row["intensity"] or 0.0, DIGITS),
    }
    if "mfu_sheet" in shares:  # as there: only where a nominal peak is known
        targets["peak_tflops"] = round(row["tflops"] / shares["mfu_sheet"], DIGITS)
        targets["mfu"] = round(shares["mfu_sheet"], 4)
    return targets


def _collective_targets(row: Mapping[str, Any]) -> dict[str, Any]:
    """Bandwidths of each rank come from its own latency."""
    latency, ranks = row["latency_us"], row.get("ranks") or []
    alg_bytes = round((row["alg_bw_gbs"] or 0.0) * latency["p50"] * 1e3)
    factor = (row["bus_bw_gbs"] or 0.0) / row["alg_bw_gbs"] if row["alg_bw_gbs"] else 0.0
    each_us = [rank["latency_us"]["p50"] for rank in ranks]
    alg = [alg_bytes / us / 1e3 for us in each_us if us]
    return {
        "latency(us)": round(latency["p50"], DIGITS),
        "algo_size(B)": alg_bytes,
        "bus_size(B)": alg_bytes * factor,
        "algo_bw(GB/s)": round(row["alg_bw_gbs"] or 0.0, DIGITS),
        "bus_bw(GB/s)": round(row["bus_bw_gbs"] or 0.0, DIGITS),
        "algo_bw_sum(GB/s)": round(sum(alg), DIGITS),
        "bus_bw_sum(GB/s)": round(sum(alg) * factor, DIGITS),
        "latency_list(us)": _rounded(each_us),
        "algo_bw_list(GB/s)": _rounded(alg),
        "bus_bw_list(GB/s)": _rounded([value * factor for value in alg]),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "targets": dict(line["targets"])}


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value)
    return guard_formula(value) if isinstance(value, str) else value


def _write(path: Path, write: Any) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror or error}", "give a file in a folder that you can write") from None


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl}
