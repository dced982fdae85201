"""`bmp push` and `bmp traces`: parse, check, wire."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_Label = typer.Option("--label", help="NAME=VALUE on every series; repeatable. Default: run=<the metrics' address>.", show_default=False)


def push(
    source: Annotated[str, typer.Argument(help="A run's metrics: http://127.0.0.1:9400/metrics.", show_default=False)],
    pushgateway: Annotated[str | None, typer.Option(help="Address of a Pushgateway.", show_default=False)] = None,
    remote_write: Annotated[str | None, typer.Option(help="Prometheus' remote write address, …/api/v1/write.", show_default=False)] = None,
    otlp: Annotated[str | None, typer.Option(help="OTLP over HTTP, http://host:4318.", show_default=False)] = None,
    every: Annotated[float, typer.Option(help="Seconds between pushes.", min=0.1)] = 5.0,
    wait: Annotated[float, typer.Option(help="Wait so many seconds for the metrics to come up.", min=0.0)] = 60.0,
    label: Annotated[list[str] | None, _Label] = None,
) -> None:
    """Carry a run's live metrics on, until it ends."""
    from bytemlperf_llm.errors import UserError
    from bytemlperf_llm.push.carry import Target, carry
    from bytemlperf_llm.push.carry import opentelemetry as to_otlp
    from bytemlperf_llm.push.carry import pushgateway as to_pushgateway
    from bytemlperf_llm.push.carry import remote as to_remote
    from bytemlperf_llm.push.labels import labels_of
    from bytemlperf_llm.push.source import checked_url

    labels = labels_of(label or (), checked_url(source, "the metrics' address"))
    targets: list[Target] = []
    if pushgateway:
        targets.append(to_pushgateway(checked_url(pushgateway, "--pushgateway"), labels))
    if remote_write:
        targets.append(to_remote(checked_url(remote_write, "--remote-write"), labels))
    if otlp:
        targets.append(to_otlp(checked_url(otlp, "--otlp"), labels))
    if not targets:
        raise UserError("nowhere to push to", "give --pushgateway, --remote-write or --otlp")
    raise typer.Exit(carry(source, targets, every, wait))


def traces(
    run: Annotated[Path, typer.Argument(help="A run folder of LLM serving.", show_default=False)],
    otlp: Annotated[str, typer.Option(help="OTLP over HTTP, http://host:4318.", show_default=False)],
) -> None:
    """Send a run's requests as OpenTelemetry traces under the GenAI semantic conventions."""
    from bytemlperf_llm.errors import UserError
    from bytemlperf_llm.push.otlp import send_traces
    from bytemlperf_llm.push.source import checked_url
    from bytemlperf_llm.runs.reader import RunReader

    endpoint = checked_url(otlp, "--otlp")
    reader = RunReader(run)
    if reader.run.get("kind") != "llm":
        raise UserError(f"{run} is a run of kind {reader.run.get('kind')!r}, which has no requests", "name a run of LLM serving")
    count, taken = send_traces(reader.run, reader.records(), endpoint)
    for damage in reader.damages:
        print(f"! {damage.file}: {damage.kind} at byte {damage.offset_bytes}, left out")
    print(f"{count} spans" + ("" if taken else ", not all of them taken by the endpoint"))
    raise typer.Exit(0 if taken else 1)
