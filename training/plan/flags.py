"""The flags of `bmp train`, declared once; None leaves it to the workload or to us."""

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import Argument, MetricsOutput, Option, Options, RunOutput
from training.workload.choices import DeviceChoice, Precision, Recompute, Sharding


class Ranks(Options, panel="Ranks"):
    """Who trains, and how the work is split."""

    trainer: Annotated[str, Option("Trainer: torch (default), megatron, or one of another package.")] = "torch"
    nproc: Annotated[int, Option("Ranks on this machine.", least=1)] = 1
    nnodes: Annotated[int, Option("Number of machines, with --prepare.", least=1)] = 1
    dp: Annotated[int | None, Option("Data parallel size. Default: ranks / other parallel sizes.", least=1)] = None
    tp: Annotated[int, Option("Tensor parallel size.", least=1)] = 1
    pp: Annotated[int, Option("Pipeline stages (megatron).", least=1)] = 1
    ep: Annotated[int, Option("Expert parallel size (megatron).", least=1)] = 1
    sharding: Annotated[Sharding, Option("Sharding: ddp (default), fsdp (torch) or zero1 (megatron).")] = "ddp"
    threads: Annotated[int | None, Option("CPU threads per rank. Default: OMP_NUM_THREADS, else cores / ranks.", least=1)] = None
    device: Annotated[DeviceChoice, Option("Device:")] = "auto"


class Recipe(Options, panel="Recipe"):
    """What takes the place of the workload's own."""

    steps: Annotated[int | None, Option("Optimizer steps. Default: the workload's.")] = None
    global_batch: Annotated[int | None, Option("Samples per step. Default: the workload's.")] = None
    micro_batch: Annotated[int | None, Option("Samples per forward pass and rank.")] = None
    seq_len: Annotated[int | None, Option("Tokens per sample.")] = None
    learning_rate: Annotated[float | None, Option("Learning rate of AdamW.")] = None
    precision: Annotated[Precision | None, Option("Precision:")] = None
    recompute: Annotated[Recompute | None, Option("Activation recomputation:")] = None
    seed: Annotated[int, Option("Same seed, same weights and batches.")] = 0


class Measurement(Options, panel="Measurement"):
    """What is measured and compared."""

    deterministic: Annotated[bool, Option("Use deterministic operators only.")] = False
    warmup: Annotated[int, Option("Warm-up steps, excluded from the results.", least=0)] = 3
    trace_steps: Annotated[int, Option("Profiled steps after warm-up, excluded from the results.", least=0)] = 2
    target_loss: Annotated[float | None, Option("Stop when the 5-step mean loss reaches this.")] = None
    loader_workers: Annotated[int, Option("Data-loader processes per rank.", least=0)] = 0
    peak_tflops: Annotated[float | None, Option("Peak of a device for MFU, in TFLOP/s. Default: a measured matrix product.", above=0)] = (
        None
    )
    micro_run: Annotated[Path | None, Option("Run folder of `bmp micro` with collectives to compare with.")] = None
    reference: Annotated[Path | None, Option("Stored loss curve to compare with. Default: a built-in one that fits.")] = None
    rerun_of: Annotated[Path | None, Option("Earlier run to compare with: with --deterministic every bit must match.")] = None
    check_operators: Annotated[bool, Option("Check operators against float64 first.", "--operator-check/--no-operator-check")] = True


class Faults(Options, panel="Checkpoints and faults"):
    """What goes wrong, and what is kept for it."""

    checkpoint_every: Annotated[int, Option("Steps between checkpoints. Default: never.", least=0)] = 0
    resume_from: Annotated[Path | None, Option("Checkpoint folder to resume from.")] = None
    max_restarts: Annotated[int, Option("Maximum torchrun restarts.", least=0)] = 0
    step_timeout_s: Annotated[float, Option("Timeout of a step in seconds; on timeout all ranks' stacks are saved.", above=0)] = 300.0
    fault: Annotated[str | None, Option("Inject a fault: kill, hang or nan with rank and step, such as kill:1:12.")] = None


class Output(RunOutput, MetricsOutput, panel="Output"):
    """Where a run's results go, and what is checked before it starts."""

    skip_memory_check: Annotated[bool, Option("Start even if the memory estimate doesn't fit.")] = False


class Flags(Ranks, Recipe, Measurement, Faults, Output):
    """The command line of a run."""

    workload: Annotated[str, Argument("Workload: name or YAML file; see `bmp train workloads`.")]


STUDIED = (
    *("workload", "trainer", "sharding", "threads", "device", "steps", "seed"),
    *("runs_dir", "label", "quiet"),
)
"""What a study of several runs takes of a run's flags."""
