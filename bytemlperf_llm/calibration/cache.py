"""The calibration of this machine, kept in the cache folder, and what a run takes from it.

The file's name is a hash of what the client's speed depends on: processor, cores, kernel, Python,
uvloop, this program's version and whether its loops are compiled. When one of them changes, the old calibration is no longer found.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.hardware.kept import path_of, write
from bytemlperf.hardware.machine import cpu
from bytemlperf.models.cache import cache_root
from bytemlperf.runs.files import writing
from bytemlperf.units import NS_PER_S
from bytemlperf.version import __version__
from bytemlperf_llm.metrics.client_error import COMMAND, Calibration, ClientError, error_bar
from bytemlperf_llm.metrics.summary import Summary
from engines.client_limits import compiled
from engines.untrusted import UntrustedJson, decode_json

NAME = "calibration"
CALIBRATED_ENGINE = "openai"
NOT_CALIBRATED = f"not calibrated: run `{COMMAND}`"
UNREADABLE = f"not calibrated, what is in the cache can't be read: run `{COMMAND}`"
CHANGED = f"not calibrated since this machine changed: run `{COMMAND}`"


def machine() -> dict[str, str]:
    """What a calibration is true for."""
    found = cpu()
    try:
        loop = f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        loop = "asyncio"
    return {
        "cpu": str(found["model"]),
        "cores": f"{found['usable_cores']} usable, quota {found['quota_cores']}",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "loop": loop,
        "bytemlperf_llm": __version__,
        "token_loops": "compiled" if compiled() else "python",
    }


def keep(calibration: Calibration) -> Path:
    """Write it. Raises UserError when the cache can't be written."""
    path = path_of(NAME, calibration.machine)
    with writing(path, "set BMP_CACHE to a writable folder"):
        write(path, calibration)
    return path


def load(described: dict[str, str] | None = None) -> tuple[Calibration | None, str]:
    """This machine's calibration, or None and why there is none. Never raises for what a file holds."""
    described = machine() if described is None else described
    path = path_of(NAME, described)
    try:
        calibration = decode_json(path.read_bytes(), Calibration)
    except FileNotFoundError:
        others = any(cache_root().glob(f"{NAME}-*.json"))
        return None, CHANGED if others else NOT_CALIBRATED
    except (OSError, UntrustedJson):
        return None, UNREADABLE
    if calibration.machine != described:
        return None, CHANGED
    return calibration, ""


# -- what a run takes from it -----------------------------------------------------------------


def client_section() -> dict[str, Any]:
    """run.json's `client`, as a run starts: the whole calibration, or why there is none."""
    calibration, why_not = load()
    return {"calibration": None if calibration is None else msgspec.to_builtins(calibration), "note": why_not}


def client_error_of(run: dict[str, Any], summary: Summary) -> ClientError:
    """The error bar of a run, from its run.json and its records' summary alone."""
    reason = _not_comparable(run)
    if reason:
        return ClientError(note=reason)
    client = run.get("client") or {}
    try:
        kept = client.get("calibration")
        calibration = None if kept is None else msgspec.convert(kept, Calibration)
    except msgspec.ValidationError:
        return ClientError(note=f"the calibration in run.json is damaged: run `{COMMAND}`, and the run again")
    workers = len(run.get("workers") or ()) or 1
    chunks, streams = _load_of(summary)
    return error_bar(
        calibration, client.get("note") or NOT_CALIBRATED, chunks and chunks / workers, streams if streams is None else streams / workers
    )


def _not_comparable(run: dict[str, Any]) -> str:
    engine = str(run.get("engine", {}).get("name", ""))
    if engine != CALIBRATED_ENGINE:
        return f"not known: engine '{engine}' runs in the client's own process, and only the HTTP client is calibrated"
    if "aiohttp" in " ".join(run["engine"].get("notes", ())):
        return "not known: the aiohttp transport is not calibrated"
    if any(worker.get("same_clock") is False for worker in run.get("workers") or ()):
        return "not known: workers ran on other machines than the one that is calibrated"
    return ""


def _load_of(summary: Summary) -> tuple[float | None, float | None]:
    """Token-carrying chunks per second and mean streams (Little's law), over the whole run."""
    first, service, chunks = summary.metrics.get("ttft"), summary.metrics.get("service_e2e"), summary.tokens.stream_chunks
    whole_s = summary.steady_state.whole.length_ns / NS_PER_S
    if first is None or service is None or whole_s <= 0:
        return None, None
    return None if chunks is None else chunks / whole_s, service.mean * service.count / NS_PER_S / whole_s
