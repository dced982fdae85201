"""The loop of `bmp push`: read the page, hand it to every receiver, until the run has ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import cast

from bytemlperf.command.exits import one_line
from bytemlperf.export.prometheus import Exporter
from bytemlperf.export.push import Receiver, reason
from bytemlperf_llm.push.page import NoPage, Page, read_page

LOOK_AGAIN_S = 0.2


def carry(source: str, receivers: Sequence[Receiver], every_s: float, wait_s: float) -> int:
    """Push until the page is gone, and its last state once more; status 1 when it never came, or that push failed."""
    last, pushes = _first_page(source, every_s, wait_s), 0
    if last is None:
        return 1
    failing: dict[str, str] = {}
    page: Page | None = last
    while page is not None:
        due, last, pushes = time.monotonic() + every_s, page, pushes + 1
        _push_all(receivers, last, failing)
        time.sleep(max(0.0, due - time.monotonic()))
        page = _page_or_none(source)
    _push_all(receivers, last, failing)
    print(f"the run has ended; pushed {pushes + 1} times" + (f", the last push failed: {'; '.join(failing.values())}" if failing else ""))
    return 1 if failing else 0


def _first_page(source: str, every_s: float, wait_s: float) -> Page | None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return read_page(source)
        except NoPage as error:
            if time.monotonic() >= deadline:
                print(f"no metrics: {one_line(str(error))}; start a run with --prometheus-port", file=sys.stderr)
                return None
        time.sleep(min(LOOK_AGAIN_S, every_s))


def _page_or_none(source: str) -> Page | None:
    try:
        return read_page(source)
    except NoPage:
        return None


def _push_all(receivers: Sequence[Receiver], page: Page, failing: dict[str, str]) -> None:
    """One that fails keeps the others going; it is said once, and again when it has recovered."""
    for receiver in receivers:
        try:
            receiver.push(cast(Exporter, page))  # of an exporter, a receiver takes text and families alone
        except (OSError, ValueError) as error:
            text = f"{receiver.name}: {reason(error)}"
            if receiver.name not in failing:
                print(f"! can't push to {text}; trying on", file=sys.stderr)
            failing[receiver.name] = text
        else:
            if failing.pop(receiver.name, None):
                print(f"{receiver.name} takes pushes again", file=sys.stderr)
