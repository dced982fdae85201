"""bmp train: parse, wire, nothing else. Heavy imports stay inside the commands.

`bmp train gpt …` is `bmp train run gpt …`: a first word that is no command is a workload.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bytemlperf.command.groups import PlainHelpGroup


class WorkloadGroup(PlainHelpGroup):
    """A first word that is no command goes to `run`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=WorkloadGroup,
    help="Measure training: throughput, scaling, memory, convergence. `bmp train gpt` is `bmp train run gpt`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_RANKS, _RECIPE, _MEASURE, _FAULTS, _OUTPUT = "Ranks", "Recipe", "Measurement", "Checkpoints and faults", "Output"


def _in(panel: str, help_text: str, *names: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=False)
    return option


@app.callback()
def _root() -> None:
    """Measure training: throughput, scaling, memory, convergence."""


@app.command(short_help="Train a workload and measure it.")
def run(
    workload: Annotated[str, typer.Argument(help="Workload: name or YAML file; see `bmp train workloads`.", show_default=False)],
    trainer: Annotated[str, _in(_RANKS, "Trainer: torch (default) or megatron.")] = "torch",
    nproc: Annotated[int, _in(_RANKS, "Ranks on this machine. Default: 1.")] = 1,
    nnodes: Annotated[int, _in(_RANKS, "Number of machines, with --prepare. Default: 1.")] = 1,
    dp: Annotated[int | None, _in(_RANKS, "Data parallel size. Default: ranks / other parallel sizes.")] = None,
    tp: Annotated[int, _in(_RANKS, "Tensor parallel size. Default: 1.")] = 1,
    pp: Annotated[int, _in(_RANKS, "Pipeline stages (megatron). Default: 1.")] = 1,
    ep: Annotated[int, _in(_RANKS, "Expert parallel size (megatron). Default: 1.")] = 1,
    sharding: Annotated[str, _in(_RANKS, "Sharding: ddp (default), fsdp (torch) or zero1 (megatron).")] = "ddp",
    threads: Annotated[int | None, _in(_RANKS, "CPU threads per rank. Default: OMP_NUM_THREADS, else cores / ranks.")] = None,
    device: Annotated[str, _in(_RANKS, "Device: auto (default), cpu or cuda.")] = "auto",
    steps: Annotated[int | None, _in(_RECIPE, "Optimizer steps. Default: the workload's.")] = None,
    global_batch: Annotated[int | None, _in(_RECIPE, "Samples per step.")] = None,
    micro_batch: Annotated[int | None, _in(_RECIPE, "Samples per forward pass and rank.")] = None,
    seq_len: Annotated[int | None, _in(_RECIPE, "Tokens per sample.")] = None,
    learning_rate: Annotated[float | None, _in(_RECIPE, "AdamW's.")] = None,
    precision: Annotated[str | None, _in(_RECIPE, "Precision: fp32 or bf16.")] = None,
    recompute: Annotated[str | None, _in(_RECIPE, "Activation recomputation: none or full.")] = None,
    seed: Annotated[int, _in(_RECIPE, "Same seed, same weights and batches. Default: 0.")] = 0,
    deterministic: Annotated[bool, _in(_MEASURE, "Use deterministic operators only.", "--deterministic")] = False,
    warmup: Annotated[int, _in(_MEASURE, "Warm-up steps, excluded from the results. Default: 3.")] = 3,
    trace_steps: Annotated[int, _in(_MEASURE, "Profiled steps after warm-up, excluded from the results. Default: 2.")] = 2,
    target_loss: Annotated[float | None, _in(_MEASURE, "Stop when the 5-step mean loss reaches this.")] = None,
    loader_workers: Annotated[int, _in(_MEASURE, "Data-loader processes per rank. Default: 0.")] = 0,
    peak_tflops: Annotated[float | None, _in(_MEASURE, "Peak of a device for MFU, in TFLOP/s. Default: a measured matrix product.")] = None,
    micro_run: Annotated[Path | None, _in(_MEASURE, "Run folder of `bmp micro` with collectives to compare with.")] = None,
    reference: Annotated[Path | None, _in(_MEASURE, "Stored loss curve to compare with. Default: a built-in one that fits.")] = None,
    rerun_of: Annotated[Path | None, _in(_MEASURE, "Earlier run to compare with: with --deterministic every bit must match.")] = None,
    no_operator_check: Annotated[
        bool, _in(_MEASURE, "Skip the initial check of operators against float64.", "--no-operator-check")
    ] = False,
    checkpoint_every: Annotated[int, _in(_FAULTS, "Steps between checkpoints. Default: never.")] = 0,
    resume_from: Annotated[Path | None, _in(_FAULTS, "Checkpoint folder to resume from.")] = None,
    max_restarts: Annotated[int, _in(_FAULTS, "Maximum torchrun restarts. Default: 0.")] = 0,
    step_timeout: Annotated[
        float, _in(_FAULTS, "Timeout of a step in seconds; on timeout all ranks' stacks are saved. Default: 300.")
    ] = 300.0,
    fault: Annotated[str | None, _in(_FAULTS, "Inject a fault: kill, hang or nan with rank and step, such as kill:1:12.")] = None,
    runs_dir: Annotated[Path, _in(_OUTPUT, "Directory for run folders. Default: runs.")] = Path("runs"),
    label: Annotated[str | None, _in(_OUTPUT, "Name of the run.")] = None,
    prometheus_port: Annotated[int | None, _in(_OUTPUT, "Port for live Prometheus metrics; 0 picks a free one.")] = None,
    prometheus_host: Annotated[str, _in(_OUTPUT, "Address to serve metrics on. Default: 127.0.0.1.")] = "127.0.0.1",
    push_gateway: Annotated[str | None, _in(_OUTPUT, "Push live metrics to the Pushgateway at this address.")] = None,
    otlp: Annotated[str | None, _in(_OUTPUT, "Send live metrics there by OTLP over HTTP.")] = None,
    push_interval: Annotated[
        float, typer.Option(min=1.0, help="Seconds between pushes. Default: 5.", rich_help_panel=_OUTPUT, show_default=False)
    ] = 5.0,
    skip_memory_check: Annotated[bool, _in(_OUTPUT, "Start even if the memory estimate doesn't fit.", "--skip-memory-check")] = False,
    dry_run: Annotated[bool, _in(_OUTPUT, "Only check, and print sizes and the memory estimate.", "--dry-run")] = False,
    prepare: Annotated[bool, _in(_OUTPUT, "Only check and write the plan, for torchrun on several machines.", "--prepare")] = False,
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the run folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Train a workload under torchrun and measure it: step times, throughput, MFU, memory, communication, convergence."""
    from bytemlperf.command.flags import MetricsOutput
    from training.command.run import Output, checked_device, run_dry, run_train
    from training.plan.plan import Flags

    flags = Flags(
        workload=workload,
        trainer=trainer,
        nproc=nproc,
        nnodes=nnodes,
        dp=dp,
        tp=tp,
        pp=pp,
        ep=ep,
        sharding=sharding,
        steps=steps,
        global_batch=global_batch,
        micro_batch=micro_batch,
        seq_len=seq_len,
        learning_rate=learning_rate,
        precision=precision,
        recompute=recompute,
        seed=seed,
        deterministic=deterministic,
        warmup=warmup,
        trace_steps=trace_steps,
        checkpoint_every=checkpoint_every,
        resume_from=resume_from,
        max_restarts=max_restarts,
        target_loss=target_loss,
        step_timeout_s=step_timeout,
        loader_workers=loader_workers,
        threads=threads,
        peak_tflops=peak_tflops,
        check_operators=not no_operator_check,
        micro_run=micro_run,
        reference=reference,
        rerun_of=rerun_of,
        fault=fault,
    )
    targets = MetricsOutput(push_gateway=push_gateway, otlp=otlp, push_interval_s=push_interval)
    output = Output(runs_dir, label, quiet, prometheus_port, prometheus_host, skip_memory_check, checked_device(device), targets)
    if prepare:
        from training.command.cluster import run_prepare

        raise typer.Exit(run_prepare(flags, output, sys.argv))
    raise typer.Exit(run_dry(flags, output) if dry_run else run_train(flags, output, sys.argv))


@app.command()
def workloads() -> None:
    """List the built-in workloads."""
    from training.command.listing import print_workloads

    print_workloads()


@app.command(short_help="Record a reference loss curve.")
def reference(
    workload: Annotated[str, typer.Argument(help="Workload: name or YAML file.", show_default=False)],
    trainer: Annotated[str, _in(_RANKS, "Trainer: torch (default) or megatron.")] = "torch",
    device: Annotated[str, _in(_RANKS, "Device: auto (default), cpu or cuda.")] = "auto",
    precision: Annotated[str | None, _in(_RECIPE, "Precision: fp32 or bf16.")] = None,
    seed: Annotated[int, _in(_RECIPE, "Random seed. Default: 0.")] = 0,
    into: Annotated[Path | None, _in(_OUTPUT, "The JSON file to write. Default: WORKLOAD-TRAINER-seedN.json here.")] = None,
    runs_dir: Annotated[Path, _in(_OUTPUT, "Directory for the run folder. Default: runs.")] = Path("runs"),
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the file's path.", "--quiet", "-q")] = False,
) -> None:
    """Train 50 steps on one rank and one thread, deterministic, and keep the losses as a reference (--reference FILE)."""
    from training.command.publish import EXIT_INVALID, publish_folder
    from training.command.run import Output, checked_device, make_reference
    from training.plan.plan import Flags

    flags = Flags(workload=workload, trainer=trainer, precision=precision, seed=seed)
    output = Output(runs_dir, quiet=quiet, device=checked_device(device))
    path, folder, summary = make_reference(flags, output, into, ["bmp", *sys.argv[1:]])
    if summary["verdict"] == "invalid":
        publish_folder(folder, summary, quiet=quiet)
        raise typer.Exit(EXIT_INVALID)
    print(path)


@app.command("keep-reference")
def keep_reference(
    run: Annotated[Path, typer.Argument(help="Run folder of a training run of 50 steps or more.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="The JSON file to write.", show_default=False)],
) -> None:
    """Keep a run's loss curve as a reference for others of the same workload and seed."""
    from bytemlperf.runs.files import damage_said
    from training.command.reference import keep_reference as keep

    with damage_said(run):
        keep(run, file)


@app.command(short_help="Measure scaling over increasing numbers of ranks.")
def scale(
    workload: Annotated[str, typer.Argument(help="Workload: name or YAML file.", show_default=False)],
    nproc: Annotated[str, _in(_RANKS, "Numbers of ranks. Default: 1,2.")] = "1,2",
    mode: Annotated[str, _in(_RANKS, "Scaling mode: strong (default, same global batch) or weak (same batch per rank).")] = "strong",
    trainer: Annotated[str, _in(_RANKS, "Trainer: torch (default) or megatron.")] = "torch",
    sharding: Annotated[str, _in(_RANKS, "Sharding: ddp (default), fsdp (torch) or zero1 (megatron).")] = "ddp",
    repeats: Annotated[int, _in(_MEASURE, "Runs per size, in alternating order. Default: 2.")] = 2,
    threads: Annotated[int | None, _in(_RANKS, "CPU threads per rank. Default: OMP_NUM_THREADS, else cores / most ranks.")] = None,
    device: Annotated[str, _in(_RANKS, "Device: auto (default), cpu or cuda.")] = "auto",
    steps: Annotated[int | None, _in(_RECIPE, "Optimizer steps per run. Default: the workload's.")] = None,
    global_batch: Annotated[int | None, _in(_RECIPE, "Samples per step; with weak scaling, of the first run.")] = None,
    micro_batch: Annotated[int | None, _in(_RECIPE, "Samples per forward pass and rank.")] = None,
    precision: Annotated[str | None, _in(_RECIPE, "Precision: fp32 or bf16.")] = None,
    seed: Annotated[int, _in(_RECIPE, "Random seed. Default: 0.")] = 0,
    runs_dir: Annotated[Path, _in(_OUTPUT, "Directory for run folders. Default: runs.")] = Path("runs"),
    label: Annotated[str | None, _in(_OUTPUT, "Name of the study.")] = None,
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Speed-up and efficiency with intervals, each run kept whole inside the study's folder."""
    from training.command.publish import publish_folder
    from training.command.run import Output, checked_device
    from training.plan.plan import Flags
    from training.studies.scale import run_scale

    flags = Flags(
        workload=workload,
        trainer=trainer,
        sharding=sharding,
        threads=threads,
        steps=steps,
        global_batch=global_batch,
        micro_batch=micro_batch,
        precision=precision,
        seed=seed,
        check_operators=False,
    )
    output = Output(runs_dir, label, quiet, device=checked_device(device))
    raise typer.Exit(publish_folder(*run_scale(flags, nproc, mode, repeats, output, ["bmp", *sys.argv[1:]]), quiet=quiet))


@app.command(short_help="Predict larger numbers of ranks from a scaling study.")
def predict(
    study: Annotated[Path, typer.Argument(help="Folder of `bmp train scale` over 1, 2 and perhaps more ranks.", show_default=False)],
    nproc: Annotated[str, _in(_RANKS, "Numbers of ranks to predict, such as 2,4,8.")] = "2,4,8",
    cores: Annotated[int | None, _in(_RANKS, "Cores of the target machine; 0: one per rank.")] = None,
    bandwidth_gbs: Annotated[
        float | None, _in(_RANKS, "Bus bandwidth of the target machine, in 10^9 bytes/s. Default: as measured.")
    ] = None,
    latency_us: Annotated[float | None, _in(_RANKS, "Message latency on the target machine. Default: as measured.")] = None,
    runs_dir: Annotated[Path, _in(_OUTPUT, "Directory for run folders. Default: runs.")] = Path("runs"),
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Extrapolate a step's time from measured computing and communication; the error is shown where it was measured."""
    from training.command.publish import publish_folder
    from training.studies.predict import run_predict

    made = run_predict(study, nproc, cores, bandwidth_gbs, latency_us, runs_dir, ["bmp", *sys.argv[1:]])
    raise typer.Exit(publish_folder(*made, quiet=quiet))


@app.command(short_help="Compare losses across precisions.")
def drift(
    workload: Annotated[str, typer.Argument(help="Workload: name or YAML file.", show_default=False)],
    precision: Annotated[str, _in(_RECIPE, "Two or more precisions, the baseline first. Default: fp32,bf16.")] = "fp32,bf16",
    nproc: Annotated[int, _in(_RANKS, "Number of ranks. Default: 1.")] = 1,
    threads: Annotated[int | None, _in(_RANKS, "CPU threads per rank. Default: OMP_NUM_THREADS, else cores / ranks.")] = None,
    trainer: Annotated[str, _in(_RANKS, "Trainer: torch (default) or megatron.")] = "torch",
    sharding: Annotated[str, _in(_RANKS, "Sharding: ddp (default), fsdp (torch) or zero1 (megatron).")] = "ddp",
    device: Annotated[str, _in(_RANKS, "Device: auto (default), cpu or cuda.")] = "auto",
    steps: Annotated[int | None, _in(_RECIPE, "Optimizer steps per run. Default: the workload's.")] = None,
    seed: Annotated[int, _in(_RECIPE, "Random seed. Default: 0.")] = 0,
    runs_dir: Annotated[Path, _in(_OUTPUT, "Directory for run folders. Default: runs.")] = Path("runs"),
    label: Annotated[str | None, _in(_OUTPUT, "Name of the study.")] = None,
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Train in each precision from the same weights on the same batches, and compare losses and speed."""
    from training.command.publish import publish_folder
    from training.command.run import Output, checked_device
    from training.plan.plan import Flags
    from training.studies.drift import run_drift

    flags = Flags(
        workload=workload, trainer=trainer, nproc=nproc, threads=threads, sharding=sharding, steps=steps, seed=seed, check_operators=False
    )
    output = Output(runs_dir, label, quiet, device=checked_device(device))
    raise typer.Exit(publish_folder(*run_drift(flags, precision, output, ["bmp", *sys.argv[1:]]), quiet=quiet))


@app.command(short_help="Resume a run that was stopped or killed.")
def resume(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    trust: Annotated[bool, _in(_OUTPUT, "Trust the checkpoint outside the run folder that the run names.", "--trust")] = False,
    skip_memory_check: Annotated[bool, _in(_OUTPUT, "Start even if the memory estimate doesn't fit.", "--skip-memory-check")] = False,
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the run folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Train the rest of a run, from its last whole checkpoint, else from its start, into the same folder."""
    from training.command.resume import resume_train
    from training.command.run import Output

    output = Output(run.parent, quiet=quiet, skip_memory_check=skip_memory_check)
    raise typer.Exit(resume_train(run, output, sys.argv, trust=trust))


@app.command(short_help="Finish a run done by a cluster's torchrun.")
def finish(
    run: Annotated[Path, typer.Argument(help="Run folder that --prepare created.", show_default=False)],
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Summarize a run prepared with --prepare and run by torchrun on several machines."""
    from training.command.cluster import run_finish

    raise typer.Exit(run_finish(run, sys.argv, quiet=quiet))
