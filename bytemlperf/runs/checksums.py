"""checksums.json: SHA-256 of run.json, of every record log, of recount.json, gauges.jsonl and spans.jsonl, written when the run has
ended, and of the report that was made of it.

Figures don't depend on every byte of a record (an error text, a hash of an answer): these sums
find a flipped byte there too. A run that was killed has none. summary.json isn't listed, since it
is computed again from what is.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from bytemlperf.runs.files import GAUGES, RECOUNT, SPANS, json_of, open_plain, read_plain, record_logs
from bytemlperf.runs.folder import write_text
from engines.untrusted import UntrustedJson, decode_json

NAME = "checksums.json"
FORMAT_VERSION = 1
REPORTS = ("report.html", "report.md", "report.json", "report.pdf")
"""Listed once they were made; each may be made anew."""


def write_checksums(folder: Path) -> None:
    """Sum up what lies there now. Raises OSError where it can't be written."""
    write_text(folder / NAME, _text({path.name: _sum(path) for path in _covered(folder)}))


def renew_checksum(folder: Path, name: str) -> None:
    """Sum up one file again that the program itself has completed or made, where there are sums: logs may be large. Raises OSError."""
    if not (folder / NAME).exists():
        return
    try:
        files = dict(json_of(folder / NAME)["files"])
    except (UntrustedJson, TypeError, KeyError, ValueError):
        files = {}  # damaged: what verify then finds
    write_text(folder / NAME, _text(files | {name: _sum(folder / name)}))


def check_checksums(folder: Path) -> list[str]:
    """One sentence for each difference."""
    try:
        kept = read_plain(folder / NAME)
    except FileNotFoundError:
        return [f"there is no {NAME}: the run was killed or is still in progress"]
    except OSError as error:
        return [f"{NAME} can't be read: {error.strerror}"]
    try:
        listed: dict[str, Any] = dict(decode_json(kept)["files"])
    except (ValueError, TypeError, KeyError):
        return [f"{NAME} is damaged: it can't be parsed"]
    made = [folder / name for name in listed if name in REPORTS and os.path.lexists(folder / name)]
    found = {path.name: _now(path, listed.get(path.name)) for path in (*_covered(folder), *made)}
    return _differences(listed, found) or (
        [] if _text(found).encode() == kept else [f"{NAME} is damaged: it was changed after it was written"]
    )


def _differences(listed: dict[str, Any], found: dict[str, dict[str, Any]]) -> list[str]:
    texts = [f"{name} is missing" for name in sorted(listed.keys() - found.keys())]
    texts += [f"{name} is not in {NAME}: it was added after the run" for name in sorted(found.keys() - listed.keys())]
    for name in sorted(listed.keys() & found.keys()):
        if listed[name] == found[name]:
            continue
        if "unreadable" in found[name]:
            texts.append(f"{name} can't be read: {found[name]['unreadable']}")
            continue
        before, now = (sums.get("bytes") if isinstance(sums, dict) else None for sums in (listed[name], found[name]))
        size = f", {before} bytes then and {now} now" if before != now else ""
        texts.append(f"{name} was changed after the run: its SHA-256 is not the one in {NAME}{size}")
    return texts


def _covered(folder: Path) -> list[Path]:
    alone = [path for path in (folder / "run.json", folder / RECOUNT, folder / GAUGES, folder / SPANS) if os.path.lexists(path)]
    return [*alone, *record_logs(folder)]


def _now(path: Path, listed: Any) -> dict[str, Any]:
    """The sum of a file as it is; one whose size is another than the listed one's needs none, however large it is."""
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
        if isinstance(listed, dict) and listed.get("bytes") == size:
            return _sum(path)
    except OSError as error:
        return {"unreadable": error.strerror}
    return {"bytes": size}


def _sum(path: Path) -> dict[str, Any]:
    with open_plain(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _text(files: dict[str, dict[str, Any]]) -> str:
    return json.dumps({"format_version": FORMAT_VERSION, "files": files}, indent=2, sort_keys=True) + "\n"
