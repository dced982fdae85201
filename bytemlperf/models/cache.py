"""Built models, kept between runs: a folder appears whole or not at all.

`built_folder` takes a lock, checks what is there against its marker (`built.json`: the recipe,
and size and SHA-256 of every file), and builds anew into a temporary folder beside it, which is
then renamed. A crash leaves a `.building-…` folder that the next build removes; a damaged file
fails the check and the folder is built again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bytemlperf.errors import UserError
from engines.untrusted import decode_json

MARKER = "built.json"


def cache_root() -> Path:
    """$BMP_CACHE, else $XDG_CACHE_HOME/bytemlperf-llm, else ~/.cache/bytemlperf-llm. Not created."""
    if chosen := os.environ.get("BMP_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").expanduser().absolute() / "bytemlperf-llm"


def built_folder(name: str, recipe: dict[str, object], build: Callable[[Path], dict[str, str]]) -> Path:
    """The folder `name` under the cache, built by `build(folder)` unless it is there and sound.

    `recipe` (JSON) says what the folder is made from: another recipe is built anew. `build` fills
    an empty folder and returns the versions of what it used, for the marker. Safe with several
    processes at once. Raises UserError when the cache can't be written.
    """
    root = cache_root()
    target = root / name
    if is_sound(target, recipe):
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f".{name}.lock"):
            if not is_sound(target, recipe):
                _build(root, target, recipe, build)
    except OSError as error:
        raise UserError(
            f"the model cache {root} can't be written: {error.strerror or error}",
            "free disk space there, or set BMP_CACHE to a writable folder",
        ) from None
    return target


def is_sound(folder: Path, recipe: dict[str, object]) -> bool:
    """Whether `folder` was built from `recipe` and every file is as it was when built."""
    try:
        marker = decode_json((folder / MARKER).read_bytes())
        if marker["recipe"] != recipe:
            return False
        return all(
            (folder / path).stat().st_size == entry["bytes"] and sha256_of(folder / path) == entry["sha256"]
            for path, entry in marker["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(root: Path, target: Path, recipe: dict[str, object], build: Callable[[Path], dict[str, str]]) -> None:
    prefix = f".building-{target.name}-"
    for stale in root.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)  # we hold the lock: nobody is at work in it
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        versions = build(building)
        files = {
            str(path.relative_to(building)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(building.rglob("*"))
            if path.is_file()
        }
        marker = {"recipe": recipe, "versions": versions, "files": files}
        (building / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
        building.chmod(0o755)
        if target.exists():
            os.replace(target, building.with_name(f"{building.name}-old"))
        os.replace(building, target)
    finally:
        for leftover in root.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
