"""The append-only record log: one `write()` per record, made before the record is counted.

A process killed at any point loses no record that was counted. Power loss costs at most the second
since the last `fdatasync`, which a thread does so that the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.files import BLOCK_BYTES, open_plain, record_logs

SYNC_EVERY_S = 1.0


def refuse_running(folder: Path) -> None:
    """A run goes on only when no process writes it: that one holds a lock on its log. Raises UserError. Where
    the file system has no locks, nothing can be told."""
    for path in record_logs(folder):
        with suppress(OSError), open_plain(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{folder} is still being written", "wait for it to end, or stop that process") from None
            except OSError:
                return


def cut_torn_tail(path: Path) -> None:
    """A log that was cut in a line goes on at a line's beginning. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - BLOCK_BYTES)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                file.truncate(begin + newline + 1)
                return
            end = begin
        file.truncate(0)


class LogFull(Exception):
    """The record could not be written; what is in the log so far is whole."""


class RecordLog:
    """Writes records to a file that must not exist yet, or appends to one with `resume`. The file
    is locked for as long as it's open, which tells others that the run is still going on."""

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | (0 if resume else os.O_EXCL)
        self._fd = os.open(path, flags, 0o644)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._encode_into = msgspec.json.Encoder().encode_into
        self._buffer = bytearray(4096)
        self.records = 0

    def append(self, record: Any) -> None:
        """One record, anything that msgspec encodes to one JSON object. Raises LogFull when the disk takes no more."""
        buffer = self._buffer
        self._encode_into(record, buffer)
        buffer += b"\n"
        self._write(buffer)
        self.records += 1

    def append_lines(self, lines: bytes) -> None:
        """Whole records that another log has, as they are. Raises LogFull."""
        self._write(lines)
        self.records += lines.count(b"\n")

    def _write(self, lines: bytes | bytearray) -> None:
        written = 0
        try:
            written = os.write(self._fd, lines)
            if written != len(lines):  # a disk that is nearly full: the next try says why
                written += os.write(self._fd, memoryview(bytes(lines))[written:])
        except OSError as error:
            self._cut(written)
            raise LogFull(error.strerror or str(error)) from error
        if written != len(lines):
            self._cut(written)
            raise LogFull(f"only {written} of {len(lines)} bytes of a record were written")

    def sync(self) -> None:
        """Wait until the disk has it all. Raises OSError."""
        os.fdatasync(self._fd)

    def _cut(self, length_bytes: int) -> None:
        """Take the torn record off again, so that the next one begins a line."""
        if not length_bytes:
            return
        with suppress(OSError):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - length_bytes)

    async def sync_forever(self, failed: Callable[[str], None]) -> None:
        """Sync the file once a second until cancelled; `failed` gets a sentence when that doesn't work."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            try:
                await loop.run_in_executor(None, os.fdatasync, self._fd)
            except OSError as error:
                failed(f"records can no longer be written ({error.strerror}); those written are kept")
                return

    def close(self) -> None:
        """Sync and close; a full disk has been reported already."""
        if self._fd >= 0:
            try:
                os.fdatasync(self._fd)
            finally:
                os.close(self._fd)
                self._fd = -1
