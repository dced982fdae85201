"""The options that all sweeping commands of `bmp micro` share, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

_MEASURING, _BOUNDS, _OUTPUT = "Measuring", "Bounds", "Output"


def _option(*names: str, help: str, panel: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """As typed."""

    provider: Annotated[
        list[str] | None,
        _option("--provider", "-p", help="Kernel provider (repeatable), or 'all'. Default: torch.", panel=_MEASURING, show_default=False),
    ] = None
    device: Annotated[str, _option(help="Device: cpu, cuda or cuda:N.", panel=_MEASURING)] = "cpu"
    threads: Annotated[
        int | None,
        _option(
            help="Threads of CPU kernels; 0 leaves it to the library. Default: OMP_NUM_THREADS, else one a physical core that "
            "this process may use; collectives share them out among the ranks.",
            panel=_MEASURING,
            min=0,
            show_default=False,
        ),
    ] = None
    hot: Annotated[
        bool,
        _option(
            "--hot", help="Reuse one buffer set (warm caches) instead of rotating through more than the cache holds.", panel=_MEASURING
        ),
    ] = False
    seed: Annotated[int, _option(help="Seed of the random inputs.", panel=_MEASURING, min=0)] = 0
    measure_seconds: Annotated[
        float | None,
        _option(
            help="Maximum sampling time per case, in seconds. Default: 2, in `all` 0.5.", panel=_MEASURING, min=0.01, show_default=False
        ),
    ] = None
    precision: Annotated[
        float, _option(help="Stop sampling when the median's 95 % interval is this share of it.", panel=_MEASURING, min=1e-4)
    ] = 0.01
    peaks: Annotated[
        str,
        _option(
            help="This machine's own peaks, for efficiencies: 'auto' takes those in the cache and measures the others first, "
            "'fresh' measures all of them, 'off' does without.",
            panel=_MEASURING,
        ),
    ] = "auto"
    card: Annotated[
        str | None,
        _option(
            help="The data sheet to compare with, as in `bmp hardware list`. Default: the device's own.",
            panel=_MEASURING,
            show_default=False,
        ),
    ] = None
    budget: Annotated[
        float | None,
        _option(
            help="Time budget of the sweep in seconds; cases beyond it are recorded as skipped.", panel=_BOUNDS, show_default=False, min=0
        ),
    ] = None
    max_case_seconds: Annotated[
        float, _option(help="Time limit of a case in seconds: skip one that would exceed it, end one that does.", panel=_BOUNDS, min=0.1)
    ] = 60.0
    max_memory: Annotated[
        str | None,
        _option(
            help="Memory limit, such as 4GiB: skip cases that need more. Default: 80 % of free memory.", panel=_BOUNDS, show_default=False
        ),
    ] = None
    runs_dir: Annotated[Path, _option(help="Directory for run folders.", panel=_OUTPUT)] = Path("runs")
    label: Annotated[str | None, _option(help="Name of the run.", panel=_OUTPUT, show_default=False)] = None
    csv: Annotated[bool, _option("--csv", help="Also write a CSV file with xpu-perf's field names.", panel=_OUTPUT)] = False
    jsonl: Annotated[bool, _option("--jsonl", help="Also write a JSONL file with xpu-perf's field names.", panel=_OUTPUT)] = False
    prometheus_port: Annotated[
        int | None,
        _option(help="Serve live metrics on this loopback port; 0 picks a free one.", panel=_OUTPUT, min=0, max=65535, show_default=False),
    ] = None
    push_gateway: Annotated[
        str | None, _option(help="Push live metrics to the Pushgateway at this address.", panel=_OUTPUT, show_default=False)
    ] = None
    otlp: Annotated[str | None, _option(help="Send live metrics to this address by OTLP over HTTP.", panel=_OUTPUT, show_default=False)] = (
        None
    )
    push_interval: Annotated[float, _option(help="Seconds between pushes.", panel=_OUTPUT, min=1.0)] = 5.0
    quiet: Annotated[bool, _option("--quiet", "-q", help="Print only the run folder's path.", panel=_OUTPUT)] = False


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """`command(…, flags)` as a typer command whose options are its own parameters and every field of Flags."""
    hints = get_type_hints(Flags, include_extras=True)
    names = [field.name for field in fields(Flags)]

    @wraps(command)
    def wrapped(**given: Any) -> None:
        flags = Flags(**{name: given.pop(name) for name in names})
        command(**given, flags=flags)

    own_hints = get_type_hints(command, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [
        parameter.replace(kind=kind, annotation=own_hints[parameter.name])
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "flags"
    ]
    shared = [inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name]) for field in fields(Flags)]
    parameters = [*own, *shared]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del wrapped.__wrapped__  # type: ignore[attr-defined]
    return wrapped
