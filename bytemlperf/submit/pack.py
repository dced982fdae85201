"""A submission as one file: the same folder gives the same bytes, and nothing is packed that isn't asked for."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from bytemlperf.errors import UserError
from bytemlperf.runs.files import open_plain, writing
from bytemlperf.submit.check import Checked
from bytemlperf.submit.declaration import NAME
from bytemlperf.submit.rules import declared_files

MANIFEST = "SHA256SUMS"

OF_A_RUN = [
    *((name, 1) for name in ("run.json", "summary.json", "checksums.json", "recount.json", "gauges.jsonl")),
    *((name, 1) for name in ("spans.jsonl", "tags.json", "plan.json")),
    *(
        (name, 1)
        for name in (
            "records*.jsonl",
            "records*.jsonl.zst",
            "records.csv",
            "records.parquet",
            "vllm-bench.json",
            "xpu-perf.csv",
            "xpu-perf.jsonl",
        )
    ),
    *((name, 1) for name in ("report.html", "report.md", "report.json", "report.pdf")),
    *(("logs/*.log", 2), ("pdf/*.pdf", 2), ("bytemlperf/*/*/*.json", 4), ("bytemlperf/*/*/*.pdf", 4)),
    *(("ranks/*", 2), ("ranks/*/*/*/*.log", 5)),
]
"""What the suites leave in a run folder, and how deep it lies; checkpoints and compiled models are no part of a result."""


def pack(folder: Path, checked: Checked, out: Path, left_out: list[str]) -> str:
    """Write `out`, a tar.gz; returns its SHA-256, and names in `left_out` what no run leaves. Raises UserError."""
    files = list(_files(folder, checked, left_out))
    sums = "".join(f"{_digest(path)}  {name}\n" for name, path in files).encode()
    partial = out.with_name(f".{out.name}.partial")
    root = folder.resolve().name
    try:
        with writing(out, "give another path with --out"):
            with (
                partial.open("wb") as raw,
                gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                _add(tar, f"{root}/{MANIFEST}", io.BytesIO(sums), len(sums))
                for name, path in files:
                    with open_plain(path) as content:
                        _add(tar, f"{root}/{name}", content, os.fstat(content.fileno()).st_size)
            partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return _digest(out)


def _files(folder: Path, checked: Checked, left_out: list[str]) -> Iterator[tuple[str, Path]]:
    """Name in the archive and path, sorted. A link is refused: it may lead out of the folder. What lies in a run folder and is no
    file of a run is left out: it was put there by accident, or by somebody else."""
    for relative in sorted({NAME, *(str(path) for path in declared_files(checked.declared))}):
        yield relative, folder / relative
    for run in checked.runs:
        for path in sorted(run.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise UserError(f"{path} is a link or special file", "remove it; a run leaves none")
            if path.is_dir():
                continue
            within, name = path.relative_to(run), str(path.relative_to(folder))
            if any(len(within.parts) == depth and within.match(pattern) for pattern, depth in OF_A_RUN):
                yield name, path
            else:
                left_out.append(name)


def _add(tar: tarfile.TarFile, name: str, content: io.BufferedReader | io.BytesIO, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    tar.addfile(info, content)


def _digest(path: Path) -> str:
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
