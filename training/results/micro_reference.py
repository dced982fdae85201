"""What `bmp micro` measured for collectives, to stand beside the same in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.records import RunRecords
from bytemlperf.units import NS_PER_US

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "p2p")


def micro_collectives(folder: Path) -> list[dict[str, Any]]:
    """One dict a measured collective: op, ranks, dtype, bytes (the full tensor's), bus_bw_gbs. Raises UserError for
    another kind of run, or one that holds none."""
    kind = read_run_json(folder).get("kind")
    if kind != "micro":
        raise UserError(f"{folder} is a run of kind {kind}", "give a run folder of: bmp micro all_reduce")
    found = [point for record in RunRecords[dict[str, Any]](folder) if (point := _point(record)) is not None]
    if not found:
        raise UserError(f"{folder} holds no measured collective", "measure one with: bmp micro all_reduce")
    return found


def _point(record: dict[str, Any]) -> dict[str, Any] | None:
    if record.get("op") not in COLLECTIVES or record.get("status") != "ok" or not record.get("bus_bw_gbs"):
        return None
    size = record["alg_bw_gbs"] * record["latency_us"]["p50"] * NS_PER_US
    args = record["args"]
    return {
        "op": record["op"],
        "ranks": args["world_size"],
        "dtype": args["dtype"],
        "bytes": round(size),
        "bus_bw_gbs": record["bus_bw_gbs"],
    }
