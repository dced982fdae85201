"""`bmp push`: parse, check, wire."""

from __future__ import annotations

from typing import Annotated

import typer


def push(
    source: Annotated[str, typer.Argument(help="A run's metrics: http://127.0.0.1:9400/metrics.", show_default=False)],
    push_gateway: Annotated[str | None, typer.Option(help="Address of a Pushgateway.", show_default=False)] = None,
    remote_write: Annotated[str | None, typer.Option(help="Address for Prometheus' remote write.", show_default=False)] = None,
    otlp: Annotated[str | None, typer.Option(help="Address for OTLP over HTTP, http://host:4318.", show_default=False)] = None,
    push_interval: Annotated[float, typer.Option(help="Seconds between pushes.", min=0.1)] = 5.0,
    wait: Annotated[float, typer.Option(help="Wait so many seconds for the metrics to come up.", min=0.0)] = 60.0,
    instance: Annotated[str | None, typer.Option(help="Name of the run. Default: the address of its metrics.", show_default=False)] = None,
) -> None:
    """Carry the live metrics of a run of any suite on, until it ends."""
    from urllib.parse import urlsplit

    from bytemlperf.errors import UserError
    from bytemlperf.export.http import checked_url
    from bytemlperf.export.push import receivers_for
    from bytemlperf_llm.push.carry import carry

    address = checked_url("the metrics' address", source)
    receivers = receivers_for(push_gateway, remote_write, otlp, instance or urlsplit(address).netloc)
    if not receivers:
        raise UserError("nowhere to push to", "give --push-gateway, --remote-write or --otlp")
    raise typer.Exit(carry(address, receivers, push_interval, wait))
