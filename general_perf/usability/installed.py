"""What it takes to have a backend and to write one: installed size, packages, lines of its adapter. All measured here.

`measure` looks at what is installed. `measure_installs` does the installation: a fresh virtual environment, pip's download of what
the backend's `describe` names at the versions that are installed here, pip's install from what it got. Fetching and installing
are timed apart, since the first is the network's (and pip's cache's) and the second the package's; never part of a run.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import io
import json
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.child.process import last_line
from bytemlperf.command.console import print_table, terminal
from bytemlperf.errors import UserError
from bytemlperf.runs.folder import write_json
from bytemlperf.runs.kinds import Table
from general_perf.backends.registry import backend, check_names

TIME_LIMIT_S = 1800.0
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def measure(name: str) -> dict[str, Any]:
    """`packages` and `install_bytes` of the backend's runtime with everything it requires, `adapter_lines` of its class's file."""
    adapter = backend(name)
    distributions = adapter.describe().distributions
    packages = closure(distributions)
    return {
        "distributions": list(distributions),
        "packages": len(packages),
        "install_bytes": sum(installed_bytes(name) for name in packages),
        "adapter_lines": code_lines(Path(inspect.getfile(type(adapter)))),
        "versions": {package: str(version) for package, version in adapter.describe().versions.items()},
    }


def closure(names: Iterable[str]) -> set[str]:
    """The installed distributions that `names` need, themselves included, by normalised name; extras left out."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    seen: set[str] = set()
    todo = [canonicalize_name(name) for name in names]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        seen.add(name)
        requirements = [Requirement(text) for text in requires]
        todo += [canonicalize_name(need.name) for need in requirements if need.marker is None or need.marker.evaluate({"extra": ""})]
    return seen


def installed_bytes(name: str) -> int:
    """Bytes of a distribution's files on disk, compiled Python left out (it comes with use)."""
    files = importlib.metadata.files(name) or []
    paths = [Path(str(file.locate())) for file in files if not str(file).endswith(".pyc")]
    return sum(path.stat().st_size for path in paths if path.is_file())


def code_lines(path: Path) -> int:
    """Lines with code on them: no blank ones, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    tokens = (token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in NO_CODE)
    code = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    alone = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    texts = (constant for constant in alone if isinstance(constant.value, str))
    docstrings = {line for text in texts for line in range(text.lineno, (text.end_lineno or text.lineno) + 1)}
    return len(code - docstrings)


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
    adapter = backend(name)
    try:
        requirements = pinned(adapter.describe().distributions)
    except ImportError as error:
        raise UserError(
            f"backend '{name}' is not installed here, so its versions are unknown: {error}", "pip install 'bytemlperf-llm[general]'"
        ) from None
    with tempfile.TemporaryDirectory(prefix="bmp-install-", dir=folder) as scratch:
        root, wheels = Path(scratch) / "venv", Path(scratch) / "wheels"
        environment_s = _timed([sys.executable, "-m", "venv", str(root)], name)
        pip = [str(root / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        before, size_before = _listed(pip), _bytes(root)
        cache = ["--no-cache-dir"] if no_cache else []
        fetch_s = _timed([*pip, "download", *cache, "--prefer-binary", "--dest", str(wheels), *requirements], name)
        install_s = _timed([*pip, "install", "--no-index", "--no-compile", "--find-links", str(wheels), *requirements], name)
        return Installed(
            backend=name,
            requirements=tuple(requirements),
            packages=len(_listed(pip) - before),
            fetched_bytes=_bytes(wheels),
            installed_bytes=_bytes(root) - size_before,
            environment_s=environment_s,
            fetch_s=fetch_s,
            install_s=install_s,
            adapter_lines=code_lines(Path(inspect.getfile(type(adapter)))),
            pip=importlib.metadata.version("pip"),
            python=sys.version.split()[0],
        )


def pinned(distributions: tuple[str, ...]) -> list[str]:
    """`name==version` as installed here: a build for another device (torch's +cpu) stays that build."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in distributions]


def _timed(command: list[str], name: str) -> float:
    """Seconds that a command took. Raises UserError with its last line where it fails."""
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"installing {name} took over {TIME_LIMIT_S:g} s", "try again with a faster package index") from None
    if done.returncode:
        said = last_line(done.stderr) or "pip printed nothing"
        raise UserError(f"{name} can't be installed: {said}", "check that pip reaches a package index that has it")
    return time.perf_counter() - began


def _listed(pip: list[str]) -> set[str]:
    """Names of the distributions that are there, without pip and what comes with an environment."""
    done = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True, check=True)
    return {str(package["name"]) for package in json.loads(done.stdout)}


def _bytes(folder: Path) -> int:
    """Bytes of the files below, compiled Python left out (it comes with use)."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink() and file.suffix != ".pyc")


def measure_installs(backends: Sequence[str], out: Path | None, *, folder: Path | None, no_cache: bool) -> None:
    """A row for each backend, and the same as JSON in `out`. Raises UserError."""
    installed = [install(name, folder=folder, no_cache=no_cache) for name in check_names(backends)]
    columns = ("packages", "fetched, MiB", "installed, MiB", "environment, s", "fetch, s", "install, s", "adapter, lines")
    print_table(terminal(), Table(title="", columns=("backend", *columns), rows=[_cells(installation) for installation in installed]))
    if out is not None:
        write_json(out, {"installed": msgspec.to_builtins(installed)})


def _cells(installation: Installed) -> list[str]:
    sizes = [f"{size / 2**20:.0f}" for size in (installation.fetched_bytes, installation.installed_bytes)]
    times = [f"{seconds:.1f}" for seconds in (installation.environment_s, installation.fetch_s, installation.install_s)]
    return [installation.backend, str(installation.packages), *sizes, *times, str(installation.adapter_lines)]
