"""bmp train: parse, wire, nothing else. Heavy imports stay inside the commands.

`bmp train gpt …` is `bmp train run gpt …`: a first word that is no command is a workload.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bytemlperf.command.flags import Argument, Option, Quiet, RunFolder, RunOutput, only, with_flags
from bytemlperf.command.groups import suite_app
from training.plan.flags import STUDIED, Flags, Output
from training.workload.choices import ScalingMode


def _workloads() -> list[str]:
    from training.workload.workload import names

    return list(names())


app = suite_app("Measure training: throughput, scaling, memory, convergence. `bmp train gpt` is `bmp train run gpt`.", "run", _workloads)


@app.command(short_help="Train a workload and measure it.")
@with_flags
def run(
    flags: Flags,
    dry_run: Annotated[bool, Option("Only check, and print sizes and the memory estimate.")] = False,
    prepare: Annotated[bool, Option("Only check and write the plan, for torchrun on several machines.")] = False,
) -> None:
    """Train a workload under torchrun and measure it: step times, throughput, MFU, memory, communication, convergence."""
    from training.command.run import run_dry, run_train

    if prepare:
        from training.command.cluster import run_prepare

        raise typer.Exit(run_prepare(flags, _command()))
    raise typer.Exit(run_dry(flags) if dry_run else run_train(flags, _command()))


@app.command()
def workloads() -> None:
    """List the built-in workloads."""
    from training.command.run import print_workloads

    print_workloads()


@app.command(short_help="Record a reference loss curve.")
@with_flags
def reference(
    flags: Annotated[Flags, only("workload", "trainer", "device", "precision", "seed", "runs_dir", "quiet")],
    out: Annotated[Path | None, Option("JSON file to write. Default: WORKLOAD-TRAINER-seedN.json here.")] = None,
) -> None:
    """Train 50 steps on one rank and one thread, deterministic, and keep the losses as a reference (--reference FILE)."""
    from training.command.run import run_reference

    raise typer.Exit(run_reference(flags, out, _command()))


@app.command("keep-reference", short_help="Keep a run's loss curve as a reference.")
@with_flags
def keep_reference(
    run: Annotated[Path, Argument("Run folder of a training run of 50 steps or more.")],
    file: Annotated[Path, Argument("The JSON file to write.")],
) -> None:
    """Keep a run's loss curve as a reference for others of the same workload and seed."""
    from bytemlperf.runs.files import damage_said
    from training.command.reference import keep_reference as keep

    with damage_said(run):
        keep(run, file)


@app.command(short_help="Measure scaling over increasing numbers of ranks.")
@with_flags
def scale(
    flags: Annotated[Flags, only(*STUDIED, "global_batch", "micro_batch", "precision")],
    nproc: Annotated[str, Option("Numbers of ranks.")] = "1,2",
    mode: Annotated[
        ScalingMode, Option("Scaling mode: strong (default, same global batch) or weak (--global-batch is the first run's).")
    ] = "strong",
    repeats: Annotated[int, Option("Runs per size, in alternating order.", least=1)] = 2,
) -> None:
    """Speed-up and efficiency with intervals, each run kept whole inside the study's folder."""
    from bytemlperf.report.terminal import publish
    from training.studies.study import run_scale

    raise typer.Exit(publish(*run_scale(flags, nproc, mode, repeats, _command()), flags))


@app.command(short_help="Predict larger numbers of ranks from a scaling study.")
@with_flags
def predict(
    study: Annotated[Path, Argument("Folder of `bmp train scale` over 1, 2 and perhaps more ranks.")],
    output: Annotated[RunOutput, only("runs_dir", "quiet")],
    nproc: Annotated[str, Option("Numbers of ranks to predict.")] = "2,4,8",
    cores: Annotated[int | None, Option("Cores of the target machine; 0: one per rank.", least=0)] = None,
    bandwidth_gbs: Annotated[
        float | None, Option("Bus bandwidth of the target machine, in 10^9 bytes/s. Default: as measured.", above=0)
    ] = None,
    latency_us: Annotated[float | None, Option("Message latency on the target machine. Default: as measured.", least=0)] = None,
) -> None:
    """Extrapolate a step's time from measured computing and communication; the error is shown where it was measured."""
    from bytemlperf.report.terminal import publish
    from training.studies.model import run_predict

    predicted = run_predict(study, nproc, cores, bandwidth_gbs, latency_us, output.runs_dir, _command())
    raise typer.Exit(publish(*predicted, output))


@app.command(short_help="Compare losses across precisions.")
@with_flags
def drift(
    flags: Annotated[Flags, only(*STUDIED, "nproc")],
    precisions: Annotated[str, Option("Two or more precisions, the baseline first.", "--precision")] = "fp32,bf16",
) -> None:
    """Train in each precision from the same weights on the same batches, and compare losses and speed."""
    from bytemlperf.report.terminal import publish
    from training.studies.study import run_drift

    raise typer.Exit(publish(*run_drift(flags, precisions, _command()), flags))


@app.command(short_help="Resume a run that was stopped or killed.")
@with_flags
def resume(
    run: RunFolder,
    output: Annotated[Output, only("skip_memory_check", "quiet")],
    trust: Annotated[bool, Option("Trust the checkpoint outside the run folder that the run names.")] = False,
) -> None:
    """Train the rest of a run, from its last whole checkpoint, else from its start, into the same folder."""
    from training.command.resume import resume_train

    raise typer.Exit(resume_train(run, output, _command(), trust=trust))


@app.command(short_help="Finish a run done by a cluster's torchrun.")
@with_flags
def finish(run: Annotated[Path, Argument("Run folder that --prepare created.")], quiet: Quiet = False) -> None:
    """Summarize a run prepared with --prepare and run by torchrun on several machines."""
    from training.command.cluster import run_finish

    raise typer.Exit(run_finish(run, _command(), quiet=quiet))


def _command() -> list[str]:
    return ["bmp", *sys.argv[1:]]
