"""What was measured on this machine, kept between commands: a small JSON file each, named by a hash of what it depends on."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from bytemlperf.models.cache import cache_root
from bytemlperf.runs.folder import write_text
from engines.untrusted import UntrustedJson, decode_json

NAME_DIGITS = 16


def path_of(name: str, depends_on: object) -> Path:
    """Where it lies in the cache folder."""
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return cache_root() / f"{name}-{digest[:NAME_DIGITS]}.json"


Kept = TypeVar("Kept", bound=msgspec.Struct)


def read(path: Path, kind: type[Kept]) -> Kept | None:
    """None where nothing is kept, or what is kept is damaged."""
    with suppress(OSError, UntrustedJson):
        return decode_json(path.read_bytes(), kind)
    return None


def keep(path: Path, value: msgspec.Struct) -> None:
    """A cache that can't be written costs a measurement the next time, no more."""
    with suppress(OSError):
        write(path, value)


def write(path: Path, value: msgspec.Struct) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n")
