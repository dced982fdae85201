"""One process at a time changes a run folder: a lock on the folder itself, which is no file in it and ends with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bytemlperf.errors import UserError


def refuse_links(folder: Path) -> None:
    """Whoever goes on with a run writes below its folder, and nowhere that a link in it leads to. Raises UserError."""
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise UserError(f"{folder} holds a link or special file: {path.relative_to(folder)}", "resume a folder of regular files")


class FolderLock:
    """Held from its making until `release`, its end as a context manager, or the end of the process. Taken before anything is
    read that will be changed. Raises UserError where another holds it. On a file system without locks nothing can be told."""

    def __init__(self, folder: Path) -> None:
        self._fd = -1
        try:
            self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise UserError(f"{folder} does not exist", "name a folder below the runs directory") from None
        except OSError as error:
            raise UserError(f"{folder} can't be opened as a folder: {error.strerror}", "name a folder below the runs directory") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise UserError(f"{folder} is still being written by another process", "wait for it to end, or stop that process") from None
        except OSError:  # some network file systems have no locks
            return

    def release(self) -> None:
        """Let others go on. Further calls do nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()
