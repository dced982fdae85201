"""A run's live metrics for Prometheus to scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bytemlperf.command.flags import MetricsOutput
    from bytemlperf.export.prometheus import Exporter

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@contextmanager
def serving(exporter: Exporter, output: MetricsOutput, say: Callable[[str], None]) -> Iterator[None]:
    """Serve for the time of the block where a port is named, and say where. Raises UserError when the port is in use."""
    host = output.prometheus_host
    try:
        if output.prometheus_port is not None:
            if host not in LOCAL_HOSTS:
                say(f"WARNING: metrics are served on {host}, which other machines may reach")
            port = exporter.serve(output.prometheus_port, host)
            say(f"metrics at http://{host}:{port}/metrics until the run ends")
        yield
    finally:
        exporter.close()
