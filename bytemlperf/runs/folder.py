"""Making a run folder: `<UTC time>-<kind>-<label>-<short id>/` with run.json, the logs, summary.json."""

from __future__ import annotations

import json
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError

SHORT_ID_BYTES = 3


def create_run_folder(runs_dir: Path, kind: str, label: str, now: datetime | None = None) -> Path:
    """Make a new, empty run folder. Raises UserError when the place can't be written."""
    started = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    slug = re.sub(r"[^a-zA-Z0-9._]+", "-", label).strip("-.")[:60] or "run"
    folder = runs_dir / f"{started}-{kind}-{slug}-{secrets.token_hex(SHORT_ID_BYTES)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't make a run folder in {runs_dir}: {error.strerror}", "give a writable place with --runs-dir") from None
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is there whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


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
