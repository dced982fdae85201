"""bmp general: parse, wire, nothing else. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bytemlperf.command.groups import PlainHelpGroup

RUN = "run"


class RunByDefault(PlainHelpGroup):
    """`bmp general resnet50` is `bmp general run resnet50`: what isn't a command is a model."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [RUN, *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=RunByDefault,
    help="Measure common models: compile, accuracy, numerics, speed. `bmp general MODEL…` runs them; see `bmp general run --help`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_WHAT, _HOW, _LOAD, _LIMITS, _OUTPUT = "What", "How", "Load", "Limits", "Output"


def _in(panel: str, help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=False)


@app.command(RUN, short_help="Measure models on backends.")
def run(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Models: names, regular, business, sota, all; a card's YAML; ByteMLPerf's JSON, or a folder of it.", show_default=False
        ),
    ],
    backend: Annotated[
        list[str] | None, _in(_WHAT, "torch-eager, torch-inductor, onnxruntime, openvino, all; repeatable. Default: onnxruntime.")
    ] = None,
    precision: Annotated[list[str] | None, _in(_WHAT, "fp32, bf16, fp16, int8; repeatable. Default: fp32.")] = None,
    size: Annotated[str, _in(_WHAT, "Model size: published (default), or a variant of the card such as small.")] = "published",
    weights: Annotated[Path | None, _in(_WHAT, "Use these weights: safetensors, ONNX, TorchScript, or a checkpoint folder.")] = None,
    random_weights: Annotated[
        bool, _in(_WHAT, "For a ByteMLPerf workload: our architecture with seeded random weights.", "--random-weights")
    ] = False,
    sparsity: Annotated[str, _in(_WHAT, "Prune linear layers before compiling: a pattern such as 2:4, or a share of 0, such as 0.8.")] = "",
    dim: Annotated[list[str] | None, _in(_WHAT, "NAME=SIZE of the card's dims, such as sequence=64; repeatable.")] = None,
    device: Annotated[str, _in(_HOW, "cpu (default) or cuda.")] = "cpu",
    backend_option: Annotated[list[str] | None, _in(_HOW, "Backend option as KEY=VALUE; repeatable.")] = None,
    threads: Annotated[int | None, _in(_HOW, "Threads per instance. Default: OMP_NUM_THREADS, else cores / instances.")] = None,
    batch_size: Annotated[list[int] | None, _in(_LOAD, "Batch size; repeatable. Default: the card's.")] = None,
    instances: Annotated[list[int] | None, _in(_LOAD, "Concurrent instances; repeatable. Default: 1.")] = None,
    loop: Annotated[list[str] | None, _in(_LOAD, "Load loop: closed (default), open; repeatable.")] = None,
    seconds: Annotated[float, _in(_LOAD, "Duration of a measurement in seconds. Default: 3.")] = 3.0,
    iterations: Annotated[int | None, _in(_LOAD, "Calls per instance in the closed loop, instead of a duration.")] = None,
    request_rate: Annotated[float | None, _in(_LOAD, "Target rate of the open loop, in calls per second.")] = None,
    rate_share: Annotated[float, _in(_LOAD, "Open-loop rate without --request-rate, as a share of the closed loop's. Default: 0.7.")] = 0.7,
    arrivals: Annotated[str, _in(_LOAD, "Arrival process: poisson (default), constant, gamma.")] = "poisson",
    burstiness: Annotated[float, _in(_LOAD, "Burstiness of gamma arrivals. Default: 1.")] = 1.0,
    seed: Annotated[int, _in(_LOAD, "Same seed, same inputs and arrivals. Default: 0.")] = 0,
    stage: Annotated[list[str] | None, _in(_HOW, "Stage: numerics, accuracy, performance, coverage; repeatable. Default: all.")] = None,
    numeric_samples: Annotated[int, _in(_HOW, "Samples compared with the reference. Default: 4.")] = 4,
    accuracy_samples: Annotated[int, _in(_HOW, "Limit on dataset samples. Default: 200.")] = 200,
    calibration_samples: Annotated[int, _in(_HOW, "Calibration samples for int8. Default: 16.")] = 16,
    time_limit: Annotated[float, _in(_LIMITS, "Timeout of a job, in seconds. Default: 600.")] = 600.0,
    memory_limit_gib: Annotated[float | None, _in(_LIMITS, "Memory limit of a job. Default: 80 % of free memory.")] = None,
    prometheus_port: Annotated[int | None, _in(_OUTPUT, "Port for live Prometheus metrics during the run; 0 picks a free one.")] = None,
    push_gateway: Annotated[str | None, _in(_OUTPUT, "Push live metrics to the Pushgateway at this address.")] = None,
    otlp: Annotated[str | None, _in(_OUTPUT, "Send live metrics there by OTLP over HTTP.")] = None,
    push_interval: Annotated[
        float, typer.Option(min=1.0, help="Seconds between pushes. Default: 5.", rich_help_panel=_OUTPUT, show_default=False)
    ] = 5.0,
    runs_dir: Annotated[Path, _in(_OUTPUT, "Directory for run folders. Default: runs.")] = Path("runs"),
    label: Annotated[str | None, _in(_OUTPUT, "Name of the run.")] = None,
    keep_artefacts: Annotated[bool, _in(_OUTPUT, "Keep compiled artifacts in the run folder.", "--keep-artefacts")] = False,
    bytemlperf_report: Annotated[bool, _in(_OUTPUT, "Also write ByteMLPerf's report files.", "--bytemlperf-report")] = False,
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the run folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Measure models on backends: a process and a row for each model, backend and precision."""
    from bytemlperf.command.flags import MetricsOutput, pairs
    from general_perf.command.plan import Flags
    from general_perf.command.run import Output, run_general
    from general_perf.job.job import MEASURED
    from general_perf.pairs import numbers

    wanted = MEASURED if stage is None else tuple(dict.fromkeys(["compile", "load", *stage]))
    flags = Flags(
        models=models,
        backends=backend or ["onnxruntime"],
        precisions=precision or ["fp32"],
        device=device,
        size=size,
        dims=numbers(dim or [], "--dim"),
        batch_sizes=batch_size or [],
        instances=tuple(instances or [1]),
        threads=threads,
        loops=tuple(loop or ["closed"]),
        stages=wanted,
        seconds=seconds,
        iterations=iterations,
        request_rate=request_rate,
        rate_share=rate_share,
        process=arrivals,
        burstiness=burstiness,
        seed=seed,
        numeric_samples=numeric_samples,
        accuracy_samples=accuracy_samples,
        calibration_samples=calibration_samples,
        backend_options=pairs("--backend-option", backend_option or []),
        memory_limit_gib=memory_limit_gib,
        time_limit_s=time_limit,
        weights=str(weights) if weights else None,
        random_weights=random_weights,
        sparsity=sparsity,
    )
    output = Output(
        runs_dir=runs_dir,
        label=label,
        prometheus_port=prometheus_port,
        targets=MetricsOutput(push_gateway=push_gateway, otlp=otlp, push_interval_s=push_interval),
        keep_artefacts=keep_artefacts,
        bytemlperf_report=bytemlperf_report,
        quiet=quiet,
    )
    raise typer.Exit(run_general(flags, output, sys.argv))


@app.command(short_help="Resume a sweep that was stopped or killed.")
def resume(
    folder: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the run folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Run the unfinished jobs, into the same folder."""
    from general_perf.command.run import resume_general

    raise typer.Exit(resume_general(folder, sys.argv, quiet=quiet))


@app.command(short_help="Write reports of a run: ByteMLPerf's JSON.")
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    bytemlperf: Annotated[bool, _in(_OUTPUT, "ByteMLPerf's report JSON, one for each model and backend.", "--bytemlperf")] = False,
) -> None:
    """Show a run's table again, and write its reports."""
    from general_perf.command.run import report_general

    raise typer.Exit(report_general(folder, bytemlperf=bytemlperf))


@app.command()
def models() -> None:
    """List the zoo: class, task, weights, sizes, data."""
    from general_perf.command.listing import print_models

    print_models()


@app.command()
def backends() -> None:
    """List backends with their versions, or what they lack."""
    from general_perf.command.listing import print_backends

    print_backends()


@app.command(short_help="Install backends from scratch and report the cost.")
def usability(
    backend: Annotated[list[str], typer.Argument(help="Backends, or all.", show_default=False)],
    no_cache: Annotated[bool, _in(_HOW, "Download again what pip's cache holds.", "--no-cache")] = False,
    output: Annotated[Path | None, _in(_OUTPUT, "Also write the result to this JSON file.", "--output", "-o")] = None,
    folder: Annotated[Path | None, _in(_OUTPUT, "Directory for the temporary environments. Default: the system's.")] = None,
) -> None:
    """Install each backend into a fresh virtual environment; report time, size and packages. Needs a package index."""
    import json

    from general_perf.backends.registry import check_names
    from general_perf.usability.install import install, show, to_json

    found = [install(name, folder=folder, no_cache=no_cache) for name in check_names(backend)]
    show(found)
    if output is not None:
        output.write_text(json.dumps(to_json(found), indent=2) + "\n", encoding="utf-8")
