"""What it costs to install a backend, by doing it: a fresh virtual environment, pip's download, pip's install from what it got.

The packages are those that the backend's `describe` names, at the versions that are installed here, with everything they
require. Fetching and installing are timed apart, since the first is the network's (and pip's cache's) and the second the
package's. Never part of a run: it needs a package index.

    bmp general usability onnxruntime openvino
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bytemlperf.command.console import print_table, terminal
from bytemlperf.errors import UserError
from bytemlperf.runs.folder import write_json
from bytemlperf.runs.kinds import Table
from general_perf.backends.registry import backend, check_names
from general_perf.usability.installed import code_lines

TIME_LIMIT_S = 1800.0


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """One backend's installation. `packages` are the distributions that pip put there; pip itself is not among them."""

    backend: str
    requirements: tuple[str, ...]
    packages: int
    fetched_bytes: int
    installed_bytes: int
    environment_s: float
    fetch_s: float
    install_s: float
    adapter_lines: int
    pip: str
    python: str


def install(name: str, *, folder: Path | None = None, no_cache: bool = False) -> Installed:
    """Install the backend's packages into an environment that is thrown away. Raises UserError where pip fails."""
    made = backend(name)
    try:
        wanted = pinned(made.describe().distributions)
    except ImportError as error:
        raise UserError(
            f"backend '{name}' is not installed here, so its versions are unknown: {error}", "pip install 'bytemlperf-llm[general]'"
        ) from None
    with tempfile.TemporaryDirectory(prefix="bmp-install-", dir=folder) as place:
        root, wheels = Path(place) / "venv", Path(place) / "wheels"
        environment_s = _timed([sys.executable, "-m", "venv", str(root)], name)
        pip = [str(root / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        before, size_before = _listed(pip), _bytes(root)
        cache = ["--no-cache-dir"] if no_cache else []
        fetch_s = _timed([*pip, "download", *cache, "--prefer-binary", "--dest", str(wheels), *wanted], name)
        install_s = _timed([*pip, "install", "--no-index", "--no-compile", "--find-links", str(wheels), *wanted], name)
        return Installed(
            backend=name,
            requirements=tuple(wanted),
            packages=len(_listed(pip) - before),
            fetched_bytes=_bytes(wheels),
            installed_bytes=_bytes(root) - size_before,
            environment_s=environment_s,
            fetch_s=fetch_s,
            install_s=install_s,
            adapter_lines=code_lines(Path(inspect.getfile(type(made)))),
            pip=importlib.metadata.version("pip"),
            python=sys.version.split()[0],
        )


def pinned(distributions: tuple[str, ...]) -> list[str]:
    """`name==version` as installed here: a build for another device (torch's +cpu) stays that build."""
    return [f"{each}=={importlib.metadata.version(each)}" for each in distributions]


def _timed(command: list[str], name: str) -> float:
    """Seconds that a command took. Raises UserError with its last line where it fails."""
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"installing {name} took over {TIME_LIMIT_S:g} s", "try again with a faster package index") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines() or ["pip said nothing"]
        raise UserError(f"{name} can't be installed: {said[-1]}", "check that pip reaches a package index that has it")
    return time.perf_counter() - began


def _listed(pip: list[str]) -> set[str]:
    """Names of the distributions that are there, without pip and what comes with an environment."""
    done = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True, check=True)
    return {str(each["name"]) for each in json.loads(done.stdout)}


def _bytes(folder: Path) -> int:
    """Bytes of the files below, compiled Python left out (it comes with use)."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file() and not each.is_symlink() and each.suffix != ".pyc")


def measure_installs(backends: Sequence[str], out: Path | None, *, folder: Path | None, no_cache: bool) -> None:
    """A row for each backend, and the same as JSON in `out`. Raises UserError."""
    installed = [install(name, folder=folder, no_cache=no_cache) for name in check_names(backends)]
    columns = ("packages", "fetched, MiB", "installed, MiB", "environment, s", "fetch, s", "install, s", "adapter, lines")
    print_table(terminal(), Table(title="", columns=("backend", *columns), rows=[_cells(each) for each in installed]))
    if out is not None:
        write_json(out, {"installed": msgspec.to_builtins(installed)})


def _cells(each: Installed) -> list[str]:
    sizes = [f"{size / 2**20:.0f}" for size in (each.fetched_bytes, each.installed_bytes)]
    times = [f"{seconds:.1f}" for seconds in (each.environment_s, each.fetch_s, each.install_s)]
    return [each.backend, str(each.packages), *sizes, *times, str(each.adapter_lines)]
