"""A wait without anything to count (an engine loads, a model is compiled): a line now and then, with the time left where the last such wait
is known, and what libraries print meanwhile in a file of its own."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from bytemlperf.command.live import PLAIN_EVERY_S
from bytemlperf.models.cache import cache_root
from bytemlperf.report.text import counted
from bytemlperf.runs.files import UNREADABLE, json_of
from bytemlperf.runs.folder import write_json

SECONDS = "waits.json"
"""In the cache: how long each wait took the last time."""


@contextmanager
def waiting(what: str, stream: TextIO | None = None, every_s: float = PLAIN_EVERY_S, *, quiet: bool = False) -> Iterator[None]:
    """Lines on `stream` (None: standard error) every `every_s`, until the block ends; `what` names the wait, now and the next time.
    None where it is `quiet`."""
    if quiet:
        yield
        return
    done, began_s, last_s = threading.Event(), time.monotonic(), _seconds().get(what)

    def tell() -> None:
        while not done.wait(every_s):
            passed_s = time.monotonic() - began_s
            left = "" if last_s is None or last_s <= passed_s else f"; about {last_s - passed_s:.0f} s left"
            print(f"[{passed_s:5.0f} s] {what}{left}", file=stream or sys.stderr, flush=True)

    teller = threading.Thread(target=tell, name="waiting", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
    with suppress(OSError):
        write_json(cache_root() / SECONDS, _seconds() | {what: round(time.monotonic() - began_s, 1)})


def _seconds() -> dict[str, float]:
    try:
        return json_of(cache_root() / SECONDS, dict[str, float])
    except (FileNotFoundError, *UNREADABLE):
        return {}


@contextmanager
def printed_to(log: Path, clean: Callable[[str], str], say: Callable[[str], None]) -> Iterator[TextIO]:
    """Send file descriptors 1 and 2 to `log`, what child processes and C++ libraries print included; gives the stream that standard error
    was. In the end a sentence counts the lines; where the block fails they are shown. `clean` takes secrets out."""
    log.parent.mkdir(parents=True, exist_ok=True)
    saved = _redirected(log)
    try:
        with os.fdopen(os.dup(saved[1]), "w", encoding="utf-8", errors="replace") as stream:
            yield stream
    except Exception:
        _restore(saved)
        print(_kept(log, clean), file=sys.stderr, end="", flush=True)
        _remove(log)
        raise
    except BaseException:
        _restore(saved)
        raise
    _restore(saved)
    if lines := _kept(log, clean).count("\n"):
        say(f"libraries printed {counted(lines, 'line')}: {log}")
    else:
        _remove(log)


def _remove(log: Path) -> None:
    """With its folder, where nothing else is in it: a run that doesn't begin leaves nothing."""
    log.unlink(missing_ok=True)
    with suppress(OSError):
        log.parent.rmdir()


def _redirected(log: Path) -> tuple[int, int]:
    """Duplicates of 1 and 2 as they were."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.close(file)
    return saved


def _restore(saved: tuple[int, int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor, old in zip((1, 2), saved, strict=True):
        os.dup2(old, descriptor)
        os.close(old)


def _kept(log: Path, clean: Callable[[str], str]) -> str:
    """What stays of it."""
    text = clean(log.read_text(encoding="utf-8", errors="replace"))
    log.write_text(text, encoding="utf-8")
    return text
