"""Live metrics pushed instead of scraped: to a Pushgateway, or by OTLP (which Prometheus takes too).

One thread pushes what the exporter holds every few seconds, and once more at the end. A receiver that is
slow, refuses or is gone costs the run nothing: pushes have a time limit, and what failed is said in one line at
the first failure and counted at the end. Credentials never stand in an address (process lists and logs show
it): `$BMP_PUSH_AUTHORIZATION` is sent as the Authorization header; OTLP takes the standard
`$OTEL_EXPORTER_OTLP_HEADERS`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from bytemlperf.command.exits import one_line
from bytemlperf.export.http import AUTHORIZATION_VARIABLE, JOB, TIMEOUT_S, authorization, checked_url
from bytemlperf.redaction import Redactor
from engines.credentials import query_secrets

if TYPE_CHECKING:
    from bytemlperf.command.flags import MetricsOutput
    from bytemlperf.export.prometheus import Exporter

INTERVAL_S = 5.0


class Receiver(Protocol):
    """Where metrics go. `name` is what a message calls it."""

    name: str

    def push(self, exporter: Exporter) -> None:
        """Send what the exporter holds now. Raises OSError or ValueError when that fails."""


def receiver_secrets(*urls: str | None) -> list[str]:
    """What the environment holds for receivers of metrics, whose messages may say it again, and what these addresses of theirs do."""
    values = [value for url in urls if url for value in query_secrets(url.partition("?")[2])]
    values += [os.environ.get(AUTHORIZATION_VARIABLE, "")]
    for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        values += [unquote(pair.partition("=")[2].strip()) for pair in os.environ.get(variable, "").split(",")]
    return [value for value in values if value]


class Pushgateway:
    """A Prometheus Pushgateway; the run's own group is replaced at every push, so nothing piles up."""

    def __init__(self, url: str, instance: str) -> None:
        self.name = "the Pushgateway"
        self._url, self._instance = checked_url("--push-gateway", url), instance

    def push(self, exporter: Exporter) -> None:
        """PUT the exporter's text under job and instance."""
        from prometheus_client.exposition import default_handler, push_to_gateway  # a PUT's redirect is not followed

        base, mark, query = self._url.partition("?")

        def send(url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes) -> Callable[[], None]:
            return default_handler(url + mark + query, method, timeout, [*headers, *authorization().items()], data)

        push_to_gateway(base, JOB, exporter, {"instance": self._instance}, TIMEOUT_S, send)  # type: ignore[arg-type]


class Pusher:
    """The pushing thread. `before` is called before each push, to put into the exporter what waits."""

    def __init__(
        self, exporter: Exporter, receivers: Sequence[Receiver], say: Callable[[str], None], interval_s: float = INTERVAL_S
    ) -> None:
        self._exporter, self._receivers, self._say, self._interval_s = exporter, receivers, say, interval_s
        self._failures = dict.fromkeys((receiver.name for receiver in receivers), 0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._push_forever, name="push", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Push a last time, and say what failed."""
        self._stopping.set()
        self._thread.join(timeout=2 * TIMEOUT_S * len(self._receivers))
        self.push()
        for name, count in self._failures.items():
            if count:
                self._say(f"{count} pushes to {name} failed; the run's own records are complete")

    def _push_forever(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self.push()

    def push(self) -> None:
        """Once, to everyone."""
        for receiver in self._receivers:
            try:
                receiver.push(self._exporter)
            except (OSError, ValueError) as error:
                self._failures[receiver.name] += 1
                if self._failures[receiver.name] == 1:
                    self._say(f"push to {receiver.name} failed: {reason(error)}; retrying every {self._interval_s:g} s")


def reason(error: Exception) -> str:
    """Why a push failed. A receiver may have written it, and may know our credentials."""
    inner = "" if hasattr(error, "code") else getattr(error, "reason", "") or getattr(error, "strerror", "")
    return Redactor(receiver_secrets()).clean(str(inner or error))


def receivers_for(output: MetricsOutput, instance: str) -> list[Receiver]:
    """The receivers named. Raises UserError for an address that can't be used, or a package that is missing."""
    receivers: list[Receiver] = []
    if output.push_gateway is not None:
        receivers.append(Pushgateway(output.push_gateway, instance))
    if output.otlp is not None:
        from bytemlperf.export.otlp import OtlpMetrics

        receivers.append(OtlpMetrics(output.otlp, instance))
    return receivers


@contextmanager
def pushing(exporter: Exporter, output: MetricsOutput, instance: str, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Push for the time of the block, and once more at its end; nothing where nobody is named; what fails is
    said on standard error where there is no `say`. Raises UserError."""
    receivers = receivers_for(output, instance)
    if not receivers:
        yield
        return
    pusher = Pusher(exporter, receivers, say or _warn, output.push_interval_s)
    pusher.start()
    try:
        yield
    finally:
        pusher.close()


def _warn(text: str) -> None:
    print(f"! {one_line(text)}", file=sys.stderr, flush=True)
