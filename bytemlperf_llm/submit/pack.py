"""A submission as one file: the same folder gives the same bytes, and nothing is packed that isn't asked for."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.submit.check import Checked
from bytemlperf_llm.submit.declaration import NAME
from bytemlperf_llm.submit.rules import declared_files

MANIFEST = "SHA256SUMS"
BLOCK_BYTES = 1 << 20


def pack(folder: Path, checked: Checked, out: Path) -> str:
    """Write `out`, a tar.gz; returns its SHA-256. Raises UserError."""
    files = list(_files(folder, checked))
    sums = "".join(f"{_digest(path)}  {name}\n" for name, path in files).encode()
    partial = out.with_name(f".{out.name}.partial")
    root = folder.resolve().name
    try:
        with (
            partial.open("wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            _add(tar, f"{root}/{MANIFEST}", io.BytesIO(sums), len(sums))
            for name, path in files:
                with path.open("rb") as content:
                    _add(tar, f"{root}/{name}", content, path.stat().st_size)
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"can't write {out}: {error.strerror or error}", "give another place with --out") from None
    return _digest(out)


def _files(folder: Path, checked: Checked) -> Iterator[tuple[str, Path]]:
    """Name in the archive and path, sorted. A link is refused: it may lead out of the folder."""
    for relative in sorted({NAME, *(str(path) for path in declared_files(checked.declared))}):
        yield relative, folder / relative
    for run in checked.runs:
        for path in sorted(run.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise UserError(f"{path} is a link or no plain file", "remove it; a run leaves none")
            if path.is_file():
                yield str(path.relative_to(folder)), path


def _add(tar: tarfile.TarFile, name: str, content: io.BufferedReader | io.BytesIO, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    tar.addfile(info, content)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()
