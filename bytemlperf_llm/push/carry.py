"""The loop of `bmp push`: read the page, send it on, until the run has ended."""

from __future__ import annotations

import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bytemlperf_llm.push import otlp, remote_write
from bytemlperf_llm.push.source import Unreachable, families, read_page, send
from bytemlperf_llm.terminal_exit import one_line

JOB = "bytemlperf"
Target = Callable[[bytes, list[Any], bool], None]
"""Takes the page, its families, and whether the run has ended (the page is then the last one again). Raises Unreachable."""


def pushgateway(base: str, labels: Mapping[str, str]) -> Target:
    """PUT the page as it is, under a group of its own: a run's last state stays there until it is deleted."""
    url = "/".join(
        [base.rstrip("/"), "metrics", "job", JOB, *(part for key, value in labels.items() for part in (f"{key}@base64", _base64(value)))]
    )

    def push(page: bytes, _: list[Any], __: bool) -> None:
        send(url, "PUT", page, {"Content-Type": "text/plain; version=0.0.4"})

    return push


def remote(url: str, labels: Mapping[str, str], now: Callable[[], float] = time.time) -> Target:
    """Remote write; when the run has ended, every series gets Prometheus' stale marker."""

    def push(_: bytes, found: list[Any], ended: bool) -> None:
        samples = remote_write.samples_of(found, {"job": JOB, **labels})
        if ended:
            samples = [(name, own, remote_write.STALE) for name, own, _ in samples]
        send(url, "POST", remote_write.encode(samples, round(now() * 1000)), remote_write.HEADERS)

    return push


def opentelemetry(endpoint: str, labels: Mapping[str, str], now_ns: Callable[[], int] = time.time_ns) -> Target:
    """OTLP over HTTP, by the SDK's exporter."""
    exporter, start_ns = otlp.metric_exporter(endpoint), now_ns()

    def push(_: bytes, found: list[Any], __: bool) -> None:
        if not otlp.send_metrics(exporter, found, labels, start_ns, now_ns()):
            raise Unreachable("the OTLP endpoint took no metrics")

    return push


def carry(source: str, targets: Sequence[Target], every_s: float, wait_s: float) -> int:
    """Push until the page is gone; status 1 when it never came, or the last push failed."""
    page, found, pushes = b"", list[Any](), 0
    failing: dict[int, str] = {}
    deadline = time.monotonic() + wait_s
    while True:
        due = time.monotonic() + every_s
        try:
            page = read_page(source)
            found = families(page)
        except Unreachable as error:
            if pushes:
                break  # the run has ended
            if time.monotonic() > deadline:
                print(f"no metrics: {one_line(str(error))}; start a run with --prometheus-port", file=sys.stderr)
                return 1
            time.sleep(min(0.2, every_s))
            continue
        pushes += 1
        _push_all(targets, page, found, False, failing)
        time.sleep(max(0.0, due - time.monotonic()))
    _push_all(targets, page, found, True, failing)
    print(f"the run has ended; pushed {pushes} times" + (f", the last push failed: {'; '.join(failing.values())}" if failing else ""))
    return 1 if failing else 0


def _push_all(targets: Sequence[Target], page: bytes, found: list[Any], ended: bool, failing: dict[int, str]) -> None:
    """A target that fails keeps the others going; it is said once, and again when it has recovered."""
    for place, target in enumerate(targets):
        try:
            target(page, found, ended)
        except Unreachable as error:
            text = one_line(str(error))
            if place not in failing:
                print(f"! {text}; trying on", file=sys.stderr)
            failing[place] = text
        else:
            if failing.pop(place, None):
                print("pushes are taken again", file=sys.stderr)


def _base64(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=") or "="
