"""Making a run folder: `<UTC time>-<kind>-<label>-<short id>/` with run.json, the logs, summary.json."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf.runs.files import UNREADABLE, json_of, why
from bytemlperf.runs.names import slug_of

SHORT_ID_BYTES = 3


def create_run_folder(runs_dir: Path, kind: str, label: str, now: datetime | None = None) -> Path:
    """Make a new, empty run folder. Raises UserError when the place can't be written."""
    started = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    folder = runs_dir / f"{started}-{kind}-{slug_of(label)}-{secrets.token_hex(SHORT_ID_BYTES)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't make a run folder in {runs_dir}: {error.strerror}", "give a writable folder with --runs-dir") from None
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is there whole or not at all."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """As a file of a run folder has it."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


FORMAT_VERSION = 1


def read_run_json(folder: Path) -> dict[str, Any]:
    """run.json of a folder. Raises UserError when the folder is no run, or of a newer format."""
    path = folder / "run.json"
    try:
        run: dict[str, Any] = json_of(path)
    except FileNotFoundError:
        what = "has no run.json" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} is not a run folder: it {what}", "name a folder below the runs directory") from None
    except UNREADABLE as error:
        raise UserError(f"{path} can't be read: {why(error)}", "the run can't be summarized without it") from None
    version = run.get("format_version") if isinstance(run, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} is not a run description", "name a folder below the runs directory")
    if version > FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}, this program reads up to {FORMAT_VERSION}", "update bytemlperf-llm")
    return run


def read_run_of(folder: Path, kind: str, fix: str) -> dict[str, Any]:
    """run.json of a run of that kind. Raises UserError, with the `fix` for a run of another."""
    run = read_run_json(folder)
    if run.get("kind") != kind:
        raise UserError(f"{folder} is a run of kind {run.get('kind')}", fix)
    return run


SHAPE: dict[str, Any] = {
    "config": {},
    "facts": {},
    "end": {},
    "environment": {"packages": {}, "git": {}, "hardware": {"cpu": {}, "memory": {}, "gpus": [], "accelerators": []}},
}
"""Objects of every run.json, and those in them; [] is a list of objects."""


def part(value: Any, *keys: str) -> dict[str, Any]:
    """The object below these keys; an empty one where anything on the way isn't there, or is no object."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def misshapen(value: dict[str, Any], shape: dict[str, Any] | None = None, path: str = "") -> list[str]:
    """What every run has and this one has otherwise: each is replaced by an empty object or list, and named."""
    found = []
    for name, inner in (SHAPE if shape is None else shape).items():
        if name not in value or (path + name in ("end", "environment.git") and value[name] is None):
            continue
        if inner == []:
            if not isinstance(value[name], list) or not all(isinstance(each, dict) for each in value[name]):
                value[name] = []
                found.append(f"run.json: {path}{name} is not a list of objects")
        elif isinstance(value[name], dict):
            found += misshapen(value[name], inner, f"{path}{name}.")
        else:
            value[name] = {}
            found.append(f"run.json: {path}{name} is not an object")
    return found


TRUST = "if the run is your own, or you trust all of this: --trust"


def refuse_unconfirmed(asked: Sequence[str], *, trust: bool = False, fix: str = TRUST) -> None:
    """A folder is data, and may be a stranger's: it decides by itself on no address, key, file or code. Raises UserError where run.json
    wants such, and the user hasn't confirmed it."""
    if asked and not trust:
        raise UserError(f"run.json wants {', '.join(asked)}, which needs your confirmation", fix)
