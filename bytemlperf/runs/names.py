"""What a run may be called on a command line in place of its folder: `latest`, `latest~1` (the one before), its id or how that begins,
its label. Names are looked up in `runs/`, where commands put their runs unless told otherwise; a path that is there goes before."""

from __future__ import annotations

import re
from pathlib import Path

from bytemlperf.errors import UserError

RUNS_DIR = Path("runs")
LEAST_ID = 2
"""Characters of an id that stand for it."""
MOST_LISTED = 5
_LATEST = re.compile(r"latest(?:~(\d{1,6}))?")
_FOLDER = re.compile(r"(?P<started>\d{8}T\d{6}Z)-[a-z]+-(?P<label>.*)-(?P<id>[0-9a-f]{6})")


def slug_of(label: str) -> str:
    """A label as a part of a folder's name."""
    return re.sub(r"[^a-zA-Z0-9._]+", "-", label).strip("-.")[:60] or "run"


def id_of(folder: str) -> str:
    """The short id at the end of a run folder's name; empty where it has another form."""
    match = _FOLDER.fullmatch(folder)
    return match["id"] if match else ""


def run_named(name: Path, runs_dir: Path = RUNS_DIR) -> Path:
    """The folder of the run that is called so; `name` itself where it is a path, or where nothing is called so, so that reading it says
    that. Raises UserError where several runs are, or not so many."""
    text = str(name)
    if name.exists() or len(name.parts) != 1 or not runs_dir.is_dir():
        return name
    runs = _newest_first(runs_dir)
    if latest := _LATEST.fullmatch(text):
        return _latest(runs, int(latest[1] or 0), runs_dir)
    found = [folder for folder in runs if _is_called(folder, text)] or [folder for folder in [runs_dir / name] if folder.is_dir()]
    if len(found) > 1:
        listed = ", ".join(f"{id_of(folder.name)} ({folder.name[:16]})" for folder in found[:MOST_LISTED])
        raise UserError(f"{len(found)} runs are called {text!r}", f"give an id: {listed}{' …' if len(found) > MOST_LISTED else ''}")
    return found[0] if found else name


def names_of_runs(incomplete: str) -> list[str]:
    """What a shell offers for the beginning of a run's name: latest, labels and ids, newest first; then paths that begin so."""
    runs = [match for folder in _newest_first(RUNS_DIR) if (match := _FOLDER.fullmatch(folder.name))]
    names = ["latest", *(match["label"] for match in runs), *(match["id"] for match in runs)] if runs else []
    paths = map(str, Path().glob(f"{incomplete}*")) if incomplete and "*" not in incomplete else []
    return [name for name in dict.fromkeys([*names, *paths]) if name.startswith(incomplete)]


def _newest_first(runs_dir: Path) -> list[Path]:
    runs = [path.parent for path in runs_dir.glob("*/run.json") if _FOLDER.fullmatch(path.parent.name)]
    return sorted(runs, key=lambda folder: (folder.name[:16], (folder / "run.json").stat().st_mtime_ns), reverse=True)


def _latest(runs: list[Path], back: int, runs_dir: Path) -> Path:
    if back >= len(runs):
        raise UserError(f"{runs_dir} holds {len(runs)} runs, and none is latest~{back}", "see `bmp runs`, or name a run folder")
    return runs[back]


def _is_called(folder: Path, text: str) -> bool:
    match = _FOLDER.fullmatch(folder.name)
    assert match
    return (len(text) >= LEAST_ID and match["id"].startswith(text)) or match["label"] == slug_of(text)
