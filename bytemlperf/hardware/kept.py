"""What was measured on this machine, kept between commands: a small JSON file each, named by a hash of what it depends on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec

from bytemlperf.models.cache import cache_root
from bytemlperf.runs.folder import write_text

NAME_DIGITS = 16


def path_of(name: str, depends_on: object) -> Path:
    """Where it lies in the cache folder."""
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return cache_root() / f"{name}-{digest[:NAME_DIGITS]}.json"


def write(path: Path, value: msgspec.Struct) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n")
