"""The machine as run.json keeps it, read from /proc and /sys with the standard library alone.

Anything that can't be told is None or empty, never an error: a run must not fail because a
container hides a file. Costs a few milliseconds; with NVIDIA's driver, one call of nvidia-smi.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bytemlperf.child.limits import usable_cores
from bytemlperf.hardware.devices import accelerators, network_links, numa, text_of

NVIDIA_SMI_TIMEOUT_S = 10
GIT_TIMEOUT_S = 10
GPU_FIELDS = ("index", "name", "uuid", "memory.total", "driver_version", "compute_cap", "power.limit")

FLAGS = {name: name for name in ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8", "sve", "sve2", "bf16", "i8mm")}
FLAGS |= {"avx512_bf16": "bf16", "avx512_fp16": "fp16", "amx_tile": "amx", "asimd": "neon"}
"""The kernel's names (x86, then Arm) of instructions that decide inference speed, and ours."""


def discover() -> dict[str, Any]:
    """Hardware and operating system, JSON-ready. Keys: cpu, memory, numa_nodes, numa, os, python, gpus,
    accelerators, links. Of links and devices only what drivers declare; nothing is measured."""
    nodes = numa()
    return {
        "cpu": cpu(),
        "memory": memory(),
        "numa_nodes": len(nodes) or None,
        "numa": nodes,
        "os": operating_system(),
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "gpus": nvidia_gpus(),
        "accelerators": accelerators(),
        "links": {"network": network_links(), "gpu_topology": nvidia_topology()},
    }


def cpu(cpuinfo: str | None = None) -> dict[str, Any]:
    """Model, core counts, ISA flags that matter, cache sizes. `cpuinfo` stands in for /proc/cpuinfo."""
    text = text_of(Path("/proc/cpuinfo")) if cpuinfo is None else cpuinfo
    blocks = [_fields(block) for block in text.split("\n\n") if block.strip()]
    first = blocks[0] if blocks else {}
    flags = set((first.get("flags") or first.get("Features") or "").split())
    cores = {(block["physical id"], block["core id"]) for block in blocks if "physical id" in block and "core id" in block}
    return {
        "model": first.get("model name") or first.get("Model") or platform.processor() or None,
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count(),
        "physical_cores": len(cores) or None,
        "sockets": len({block["physical id"] for block in blocks if "physical id" in block}) or None,
        "usable_cores": usable_cores(),
        "quota_cores": _cgroup_cores(),
        "isa": sorted({ours for kernel, ours in FLAGS.items() if kernel in flags}),
        "caches": _caches(),
        "governor": text_of(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or None,
        "virtual": "hypervisor" in flags,
    }


def memory() -> dict[str, int | None]:
    """Bytes of memory, of swap, and the control group's limit where there is one."""
    fields = _fields(text_of(Path("/proc/meminfo")))
    limit = text_of(Path("/sys/fs/cgroup/memory.max"))
    return {
        "total_bytes": _kilobytes(fields.get("MemTotal")),
        "swap_bytes": _kilobytes(fields.get("SwapTotal")),
        "limit_bytes": int(limit) if limit.isdigit() else None,
    }


def operating_system() -> dict[str, str | None]:
    """Distribution, kernel, C library."""
    distribution = None
    with suppress(OSError):
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME")
    library = " ".join(platform.libc_ver()).strip() or None
    return {"name": platform.system(), "distribution": distribution, "kernel": platform.release(), "libc": library}


def has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def nvidia_gpus() -> list[dict[str, str]]:
    """One dict of nvidia-smi's own texts (units in them) for each GPU; empty without a driver."""
    if not has_nvidia_driver():
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"]
    return parse_gpus(output_of(command, NVIDIA_SMI_TIMEOUT_S) or "")


def parse_gpus(csv: str) -> list[dict[str, str]]:
    """nvidia-smi's CSV lines as dicts; lines of another shape (error texts) are left out."""
    rows = [[cell.strip() for cell in line.split(",")] for line in csv.splitlines()]
    return [dict(zip(GPU_FIELDS, row, strict=True)) for row in rows if len(row) == len(GPU_FIELDS)]


def nvidia_topology() -> list[str]:
    """The lines of nvidia-smi's matrix of links between GPUs and to network cards; empty without a driver."""
    if not has_nvidia_driver():
        return []
    text = output_of(["nvidia-smi", "topo", "-m"], NVIDIA_SMI_TIMEOUT_S) or ""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [" ".join(line.split()) for line in plain.splitlines() if re.match(r"\s*(GPU|NIC|mlx)", line)]


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions in `names` that are installed."""
    from importlib.metadata import PackageNotFoundError, version  # whose import is a third of what a quick command takes to start

    versions = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def git_state(folder: Path | str) -> dict[str, str | bool | None] | None:
    """`commit` (hex) and `dirty` (tracked files differ) of the tree that holds `folder`.

    None outside git, and where git tracks nothing in `folder` (an environment inside another project).
    """
    git = ["git", "-C", str(folder)]
    if not output_of([*git, "ls-files", "."], GIT_TIMEOUT_S):
        return None
    commit = output_of([*git, "rev-parse", "HEAD"], GIT_TIMEOUT_S)
    if commit is None:
        return None
    status = output_of([*git, "status", "--porcelain", "--untracked-files=no"], GIT_TIMEOUT_S)
    return {"commit": commit.strip(), "dirty": bool(status) if status is not None else None}


def _caches() -> dict[str, str]:
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (text_of(index / name) for name in ("level", "type", "size"))
        if level and size:
            letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
            caches[f"L{level}{letter}"] = size
    return caches


def _cgroup_cores() -> float | None:
    """CPUs that a container may use (cgroup v2 quota / period), None where it is not limited."""
    quota, _, period = text_of(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _kilobytes(text: str | None) -> int | None:
    number = (text or "").split(" ")[0]
    return int(number) * 1024 if number.isdigit() else None


def output_of(command: list[str], timeout_s: float) -> str | None:
    """What `command` prints, None if it is absent, fails or hangs. Speaks English whatever the locale."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
