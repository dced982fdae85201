"""Files of prompts and traces, as people have them: opened, split into lines, decoded, and named where they can't be used.

A file is data that someone else wrote. Only a regular file of text is read, packed by gzip or Zstandard or not, or Parquet as a JSON line
a row; one that is anything else or not fetched yet is called what it is. Lines end in LF, CRLF or CR; a byte order mark and blank lines are
passed over.
"""

from __future__ import annotations

import gzip
import json
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.extras import require
from bytemlperf.lazy import zstd

T = TypeVar("T")

MAX_LINE_BYTES = 64 << 20
MAX_ECHO_CHARS = 60
DATA_SUFFIXES = (".json", ".jsonl", ".gz", ".zst", ".parquet")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HALF_A_PAIR = "half of a surrogate pair, which is not text"
NOT_TEXT = "not UTF-8 text, or half of a surrogate pair"
NESTED = "nested too deep"
TRACE_FIX = "give the path of the trace file with --dataset-path"

GZIP, ZSTANDARD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
PARQUET_ROWS = 256
"""Rows of Parquet in memory beside the row group that holds them."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe, which can be read only once"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_SIGNATURES = (
    (GZIP, "compressed with gzip twice", "unpack it first: gunzip FILE"),
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2 FILE"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it first: unxz FILE"),
    (ZSTANDARD, "compressed with Zstandard twice", "unpack it first: unzstd FILE"),
    (b"\x04\x22\x4d\x18", "compressed with LZ4", "unpack it first: unlz4 FILE"),
    (b"PK\x03\x04", "a ZIP archive (or a spreadsheet)", "unpack it first, or export it as text"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (PARQUET, "a Parquet file inside another", "unpack it first"),
    (b"ARROW1", "an Arrow file", "convert it to JSON Lines first: polars.read_ipc(FILE).write_ndjson(OUT)"),
    (b"Obj\x01", "an Avro file", "convert it to JSON Lines first"),
    (b"SQLite format 3", "an SQLite database", "export its table as text first"),
    (b"%PDF", "a PDF document", "give the data as text"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"),
    (b"/annex/objects/", "a pointer of git-annex, not the file itself", "fetch the file: git annex get"),
    (b"\xff\xfe\x00\x00", "UTF-32 text", "save it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "save it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE"),
    *((b"\x80%c" % protocol, "a Python pickle, which is never loaded", "convert it to JSON Lines first") for protocol in range(2, 6)),
)
_MARKUP = (b"<!doctype", b"<html", b"<?xml")


def bad(path: Path, line: int, field: str, problem: str, fix: str) -> UserError:
    """The error for one field of one line."""
    return UserError(f"{path}:{line}: {field}: {problem}", fix)


def echo(value: object) -> str:
    """`value` in quotes, on one line, cut to a length that fits it."""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    return f"'{text}'" if len(text) <= MAX_ECHO_CHARS else f"'{text[:MAX_ECHO_CHARS]}...'"


@contextmanager
def open_data(path: Path, fix: str = TRACE_FIX) -> Iterator[BufferedReader]:
    """The text of a regular file, open for reading. Raises UserError that says what else it is; `fix` is for one that can't be read."""
    try:
        mode = path.stat().st_mode
        kind = next((name for test, name in _KINDS if test(mode)), None)
        if kind is not None:
            raise UserError(f"{path} is {kind}", "give a regular file")
        with path.open("rb") as raw, _unpacked(path, raw) as file:
            _check_text(path, file.peek(4096)[:4096])
            yield file
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}", "fetch it again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}", fix) from None


def is_parquet(path: Path) -> bool:
    """Whether `open_data` reads it as JSON lines whatever its format."""
    if not path.is_file():
        return False
    with open_data(path) as file:
        return isinstance(file.raw, _Lines)


@contextmanager
def _unpacked(path: Path, file: BufferedReader) -> Iterator[BufferedReader]:
    head = file.peek(4)
    if head.startswith(GZIP):
        yield BufferedReader(gzip.GzipFile(fileobj=file))  # type: ignore[arg-type]
    elif head.startswith(ZSTANDARD):
        try:
            yield BufferedReader(zstd.ZstdFile(file))
        except zstd.ZstdError as error:
            raise EOFError(error) from None
    elif head.startswith(PARQUET):
        yield BufferedReader(_Lines(_parquet(path)))
    else:
        yield file


class _Lines(RawIOBase):
    """Lines as a file."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source, self._rest = source, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._source, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _parquet(path: Path) -> Iterator[bytes]:
    """A JSON line for each row, without what is null in it."""
    require("reading Parquet", "analysis", "polars")
    import polars

    try:
        for batch in polars.scan_parquet(path, glob=False).collect_batches(chunk_size=PARQUET_ROWS):
            for row in batch.iter_rows(named=True):
                yield msgspec.json.encode(_without_null(row)) + b"\n"
    except polars.exceptions.PolarsError as error:
        raise EOFError(str(error).partition("\n")[0]) from None


def _without_null(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_null(each) for each in value]
    return {key: _without_null(each) for key, each in value.items() if each is not None} if isinstance(value, dict) else value


def files(path: Path) -> list[Path]:
    """The file, or those of the folder in the order of their names."""
    found = sorted(each for each in path.iterdir() if each.suffix in DATA_SUFFIXES and each.is_file()) if path.is_dir() else [path]
    if not found:
        raise UserError(f"{path} has no data file", f"give a folder with files {', '.join(DATA_SUFFIXES)}")
    return found


def _check_text(path: Path, head: bytes) -> None:
    what, fix = next(((what, fix) for start, what, fix in _SIGNATURES if head.startswith(start)), (None, ""))
    if what is None and head.removeprefix(BYTE_ORDER_MARK).lstrip()[:16].lower().startswith(_MARKUP):
        what, fix = "a web page or XML, not data", "download the file itself (its raw form)"
    if what is None and b"\0" in head:
        what, fix = "binary, or UTF-16 text", "give text in UTF-8: iconv -f UTF-16 -t UTF-8 FILE"
    if what is not None:
        raise UserError(f"{path} is {what}", fix)


def raw_lines(path: Path, fix: str = TRACE_FIX) -> Iterator[tuple[int, bytes]]:
    """(number, line with its end) of every line; one line in memory. Raises UserError."""
    with open_data(path, fix) as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            if len(raw) > MAX_LINE_BYTES:
                raise bad(path, number + 1, "line", f"longer than {MAX_LINE_BYTES >> 20} MiB", "give one request per line")
            for line in raw.splitlines(keepends=True):  # at CR too
                number += 1
                yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def lines(path: Path, fix: str = TRACE_FIX) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every line that isn't empty. Raises UserError."""
    for number, raw in raw_lines(path, fix):
        if line := raw.strip():
            yield number, line


def field_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """(field, problem) of what msgspec says: "Expected `int`, got `str` - at `$.input_length`"."""
    problem, _, where = str(error).partition(" - at ")
    field = where.strip("`").removeprefix("$").lstrip(".")
    if not field and problem.startswith("Object missing required field"):
        field = problem.rsplit("`", 2)[-2]
    return field or "line", problem


def is_text(*texts: str) -> bool:
    """Whether all can be written as UTF-8: half of a surrogate pair can't."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def decode(decoder: msgspec.json.Decoder[Any], raw: bytes, path: Path, line: int, form: str) -> Any:
    """One JSON line as the decoder's type. What isn't strict JSON, such as NaN, may stand in fields that
    are not used. Raises UserError that names the field."""
    try:
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            value = json.loads(raw)
        if not is_text(json.dumps(value, ensure_ascii=False)):
            raise bad(path, line, "line", HALF_A_PAIR, "fix the line, or remove it")
        return msgspec.convert(value, decoder.type, strict=False)
    except msgspec.ValidationError as error:
        field, problem = field_of(error)
        raise bad(path, line, field, problem, f"give each line as {form}") from None
    except RecursionError:
        raise bad(path, line, "line", NESTED, f"give each line as {form}") from None
    except UnicodeDecodeError as error:
        raise bad(path, line, "line", f"not UTF-8 text: {error.reason} at byte {error.start}", "save the file as UTF-8") from None
    except ValueError as error:
        problem = f"{error.msg}, at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise bad(path, line, "line", f"not JSON: {problem}", f"give each line as {form}") from None


def converted(value: Any, form: type[T], path: Path, line: int, example: str) -> T:
    """A JSON value that was read already, as a type. Raises UserError that names the field."""
    try:
        return msgspec.convert(value, form, strict=False)
    except msgspec.ValidationError as error:
        field, problem = field_of(error)
        raise bad(path, line, field, problem, f"give {example}") from None
    except UnicodeEncodeError:
        raise bad(path, line, "line", NOT_TEXT, "save the file as UTF-8") from None
