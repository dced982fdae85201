"""The append-only record log: one `write()` per record, made before the record is counted.

A process killed at any point loses no record that was counted. Power loss costs at most the second
since the last `fdatasync`, which a thread does so that the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from bytemlperf_llm.runs.record import RequestRecord

SYNC_EVERY_S = 1.0


class LogFull(Exception):
    """The record could not be written; what is in the log so far is whole."""


class RecordLog:
    """Writes records to a file that must not exist yet, or appends to one with `resume`."""

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if resume else os.O_EXCL)
        self._fd = os.open(path, flags, 0o644)
        self._encode_into = msgspec.json.Encoder().encode_into
        self._buffer = bytearray(4096)
        self.records = 0

    def append(self, record: RequestRecord) -> None:
        """Raises LogFull when the disk takes no more."""
        buffer = self._buffer
        self._encode_into(record, buffer)
        buffer += b"\n"
        try:
            written = os.write(self._fd, buffer)
        except OSError as error:
            raise LogFull(error.strerror or str(error)) from error
        if written != len(buffer):
            raise LogFull(f"only {written} of {len(buffer)} bytes of a record were written")
        self.records += 1

    async def sync_forever(self) -> None:
        """Sync the file once a second until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            await loop.run_in_executor(None, os.fdatasync, self._fd)

    def close(self) -> None:
        """Sync and close; a full disk has been reported already."""
        if self._fd >= 0:
            try:
                os.fdatasync(self._fd)
            finally:
                os.close(self._fd)
                self._fd = -1
