"""What was measured on this machine, kept between commands: a small JSON file each, named by a hash of what it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from bytemlperf.hardware.machine import discover, package_versions
from bytemlperf.models.cache import cache_root
from bytemlperf.runs.folder import write_text
from bytemlperf.version import __version__
from engines.untrusted import UntrustedJson, decode_json
from micro.measure.estimate import COLD_CACHES

Kept = TypeVar("Kept", bound=msgspec.Struct)
NAME_DIGITS = 16


def machine(device: str, threads: int) -> dict[str, str]:
    """Everything of a machine that an operator's time depends on."""
    hardware, versions = discover(), package_versions(("torch", "numpy"))
    return {
        "cpu": str(hardware["cpu"]["model"]),
        "cpus": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "gpus": "; ".join(f"{gpu['name']}, driver {gpu['driver_version']}" for gpu in hardware["gpus"]),
        "device": device,
        "threads": str(threads),
        "turn": f"{COLD_CACHES} caches",
        "kernel": platform.release(),
        "torch": versions.get("torch", ""),
        "numpy": versions.get("numpy", ""),
        "bytemlperf_llm": __version__,
    }


def path_of(name: str, depends_on: object) -> Path:
    """Where it lies in the cache folder."""
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return cache_root() / f"{name}-{digest[:NAME_DIGITS]}.json"


def read(path: Path, kind: type[Kept]) -> Kept | None:
    """None where nothing is kept, or what is kept is damaged."""
    with suppress(OSError, UntrustedJson):
        return decode_json(path.read_bytes(), kind)
    return None


def write(path: Path, value: msgspec.Struct) -> None:
    """A cache that can't be written costs a measurement the next time, no more."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n")
