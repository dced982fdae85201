"""Failures that are this machine's limits and no server's: files, local ports, memory, threads.

They get a class of their own (`client_limit`), so that no reader blames the server for them.
"""

from __future__ import annotations

import errno
import os
import re
from importlib.util import find_spec

from engines.contract import EngineError

MANY_FILES = "too many open files: raise the limit with ulimit -n, or take a lower --max-concurrency"
_NO_MEMORY = "no memory left: lower --max-concurrency, or give the client more memory"
_LIMITS = {
    errno.EMFILE: MANY_FILES,
    errno.ENFILE: "too many open files on this machine: raise fs.file-max, or take a lower --max-concurrency",
    errno.EADDRNOTAVAIL: "no free local port for another connection (or no local address of that kind): "
    "widen net.ipv4.ip_local_port_range, or take a lower --max-concurrency",
    errno.ENOMEM: _NO_MEMORY,
    errno.ENOBUFS: _NO_MEMORY,
}
_NO_THREAD = "no more threads: raise the limit with ulimit -u"
_ERRNO = re.compile(r"\[Errno (\d+)\]")


def compiled() -> bool:
    """Whether the loops that run once per token are compiled here; without, a token costs the client more."""
    return find_spec("engines.http._stream") is not None


def client_limit(error: BaseException) -> EngineError | None:
    """The failure as one of this machine's limits; None where it is none of them."""
    if isinstance(error, MemoryError):
        return EngineError("client_limit", _NO_MEMORY)
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return EngineError("client_limit", _NO_THREAD)
    text = next((_LIMITS[number] for number in errnos(error) if number in _LIMITS), None)
    return None if text is None else EngineError("client_limit", text)


def errnos(error: BaseException) -> list[int]:
    """The error's number, or those of all addresses that were tried: asyncio then gives them in the text alone."""
    if not isinstance(error, OSError):
        return []
    return [error.errno] if error.errno is not None else [int(number) for number in _ERRNO.findall(str(error))]


def out_of_files() -> bool:
    """Whether this process can open no further file. A name then resolves to nothing, without the reason."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False
