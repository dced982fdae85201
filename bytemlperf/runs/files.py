"""Opening what lies in a run folder: plain files alone, of bounded size, whose JSON has bounded depth.

A folder may be a stranger's: a fifo holds its reader for ever, a link leads to a device or to somebody's keys, a sparse file of
gigabytes is one line. Every file of a run folder is opened here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, overload

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.lazy import zstd
from engines.untrusted import UntrustedJson, decode_json

MAX_FILE_BYTES = 64 << 20
"""Of a file that is read whole: run.json and summary.json of a sweep of 50,000 cases have some 40 MB."""

MAX_LINE_BYTES = 32 << 20
"""Of one record: a million tokens, each with its stamp, are 12 MB."""

BLOCK_BYTES = MIN_PACKED_BYTES = 1 << 20
MAX_GROWTH = 200

LOGS, PACKED = "records*.jsonl", ".zst"
GAUGES, RECOUNT, SPANS = "gauges.jsonl", "recount.json", "spans.jsonl"
"""Beside them, where a suite keeps such."""

UNREADABLE = (OSError, UntrustedJson)
"""What `read_plain` and `json_of` raise."""

DAMAGED: tuple[type[Exception], ...] = (
    *(ArithmeticError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(OSError, RecursionError, MemoryError, msgspec.MsgspecError, UserError),
)
"""What code may raise on content that is not as the program writes it."""

ValueT = TypeVar("ValueT")


def open_plain(path: Path) -> BufferedReader:
    """A plain file to read, never through a link. Raises OSError for everything else, and never waits."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path) -> bytes:
    """A plain file of at most MAX_FILE_BYTES. Raises OSError."""
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"it is larger than {MAX_FILE_BYTES >> 20} MiB", str(path))
        return file.read(MAX_FILE_BYTES)


@overload
def json_of(path: Path) -> Any: ...
@overload
def json_of(path: Path, type: type[ValueT]) -> ValueT: ...
def json_of(path: Path, type: Any = Any) -> Any:
    """A file's JSON, of that type. Raises OSError and UntrustedJson."""
    return decode_json(read_plain(path), type)


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a plain file, or of one packed by Zstandard. One longer than MAX_LINE_BYTES is cut there and is the last. Raises
    OSError, after the last whole line, where a packed one is cut, damaged or grows MAX_GROWTH-fold."""
    with open_plain(path) as file:
        if path.suffix != PACKED:
            yield from _lines(file)
            return
        left = MAX_GROWTH * (BLOCK_BYTES + os.fstat(file.fileno()).st_size)
        try:
            for line in _lines(BufferedReader(zstd.ZstdFile(file), BLOCK_BYTES)):
                yield line
                if (left := left - len(line)) < 0:
                    raise OSError(errno.EFBIG, f"it is more than {MAX_GROWTH} times as large unpacked")
        except (EOFError, zstd.ZstdError):
            raise OSError(errno.EIO, "it is cut or damaged") from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES):
        yield line
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            return


def record_logs(folder: Path) -> list[Path]:
    """A run's logs in the order of their names; of one that is there both packed and not, the latter."""
    logs = set(folder.glob(LOGS))
    return sorted(logs | {path for path in folder.glob(LOGS + PACKED) if path.with_suffix("") not in logs})


def pack_logs(folder: Path) -> None:
    """Logs of MIN_PACKED_BYTES and more become a quarter of their size. A crash leaves the one or the other. Raises OSError."""
    for path in folder.glob(LOGS):
        if path.stat().st_size >= MIN_PACKED_BYTES:
            with open_plain(path) as log:
                _replace(path, path.with_name(path.name + PACKED), _packed(log))


def unpack_logs(folder: Path) -> None:
    """Undo `pack_logs`. Raises OSError."""
    for path in record_logs(folder):
        if path.suffix == PACKED:
            _replace(path, path.with_suffix(""), lines_of(path))


def _packed(log: BinaryIO) -> Iterator[bytes]:
    """Frames of one block each: a damaged one costs no other. Each has its checksum: another letter in a text would be no error else."""
    options = {zstd.CompressionParameter.compression_level: 1, zstd.CompressionParameter.checksum_flag: 1}
    while block := log.read(BLOCK_BYTES):
        yield zstd.compress(block, options=options)


def _replace(path: Path, other: Path, parts: Iterable[bytes]) -> None:
    partial = other.with_name(f".{other.name}")
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(other)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    path.unlink()


@contextmanager
def writing(path: Path | None, fix: str) -> Iterator[None]:
    """What goes wrong with writing there inside is one line: UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror or error}", fix) from None


@contextmanager
def damage_said(folder: Path) -> Iterator[None]:
    """What goes wrong with a folder's content inside is one line that names it: UserError."""
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except DAMAGED as error:
        raise UserError(f"{folder} is damaged: {why(error)}", "check it with: bmp verify") from None


def why(error: BaseException) -> str:
    if isinstance(error, UserError):
        return error.cause
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, UntrustedJson) else f"{type(error).__name__}: {error}"[:300]
