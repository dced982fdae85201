"""The flags of `bmp general` and `bmp convert`, declared once."""

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import NOTHING, Argument, MetricsOutput, Option, Options, RunOutput
from general_perf.choices import (
    DAY_S,
    LARGEST_BATCH,
    LARGEST_SEED,
    MOST_CALLS,
    MOST_INSTANCES,
    MOST_SAMPLES,
    PUBLISHED,
    ArrivalProcess,
    Loop,
    Precision,
    Stage,
)


class Source(Options, panel="Model"):
    """Which model, at which size, with which weights."""

    size: Annotated[str, Option("Model size: published (default), or a variant of the card such as small.")] = PUBLISHED
    weights: Annotated[Path | None, Option("Use these weights: safetensors, ONNX, TorchScript, or a checkpoint folder.")] = None
    dims: Annotated[dict[str, int], Option("NAME=SIZE of the card's dims, such as sequence=64; repeatable.", "--dim")] = NOTHING
    backend_options: Annotated[dict[str, str], Option("Backend option as KEY=VALUE, such as opset=18; repeatable.", "--backend-option")] = (
        NOTHING
    )
    calibration_samples: Annotated[int, Option("Calibration samples for int8.", least=0, most=MOST_SAMPLES)] = 16


class What(Options, panel="Model"):
    """What is compiled, and for what."""

    backends: Annotated[
        tuple[str, ...], Option("onnxruntime (default), openvino, torch-eager, torch-inductor or all; repeatable.", "--backend")
    ] = ("onnxruntime",)
    precisions: Annotated[tuple[Precision, ...], Option("Precision:", "--precision")] = ("fp32",)
    random_weights: Annotated[bool, Option("For a ByteMLPerf workload: our architecture with seeded random weights.")] = False
    sparsity: Annotated[str, Option("Prune linear layers before compiling: a pattern such as 2:4, or a share of 0, such as 0.8.")] = ""


class How(Options, panel="Measurement"):
    """What is measured of it."""

    stages: Annotated[tuple[Stage, ...], Option("numerics, accuracy, performance or coverage; repeatable. Default: all.", "--stage")] = (
        *("numerics", "accuracy"),
        *("performance", "coverage"),
    )
    device: Annotated[str, Option("Device: cpu (default) or cuda.")] = "cpu"
    threads: Annotated[
        int | None, Option("Threads per instance. Default: OMP_NUM_THREADS, else cores / instances.", least=1, most=4096)
    ] = None
    numeric_samples: Annotated[int, Option("Samples compared with the reference.", least=1, most=MOST_SAMPLES)] = 4
    accuracy_samples: Annotated[int, Option("Limit on dataset samples.", least=1, most=1000 * MOST_SAMPLES)] = 200


class Load(Options, panel="Load"):
    """The calls of a measurement."""

    batch_sizes: Annotated[
        tuple[int, ...], Option("Batch size; repeatable. Default: the card's.", "--batch-size", least=1, most=LARGEST_BATCH)
    ] = ()
    instances: Annotated[tuple[int, ...], Option("Concurrent instances; repeatable.", least=1, most=MOST_INSTANCES)] = (1,)
    loops: Annotated[tuple[Loop, ...], Option("Load loop:", "--loop")] = ("closed",)
    seconds: Annotated[float, Option("Duration of a measurement in seconds.", above=0, most=DAY_S)] = 3.0
    iterations: Annotated[int | None, Option("Calls per instance in the closed loop, instead of a duration.", least=1, most=MOST_CALLS)] = (
        None
    )
    request_rate: Annotated[float | None, Option("Target rate of the open loop, in calls per second.", above=0, most=1e6)] = None
    rate_share: Annotated[float, Option("Open-loop rate without --request-rate, as a share of the closed loop's.", above=0, most=100)] = 0.7
    process: Annotated[ArrivalProcess, Option("Arrival process:", "--arrivals")] = "poisson"
    burstiness: Annotated[float, Option("Burstiness of gamma arrivals.", above=0, most=1e6)] = 1.0
    seed: Annotated[int, Option("Same seed, same inputs and arrivals.", least=0, most=LARGEST_SEED)] = 0


class Limits(Options, panel="Limits"):
    """What ends a job."""

    time_limit_s: Annotated[float, Option("Timeout of a job in seconds.", above=0, most=30 * DAY_S)] = 600.0
    memory_limit: Annotated[str | None, Option("Memory limit of a job, such as 4GiB. Default: 80 % of free memory.")] = None


class Output(RunOutput, MetricsOutput, panel="Output"):
    """Where results go."""

    keep_artefacts: Annotated[bool, Option("Keep compiled artifacts in the run folder.")] = False
    bytemlperf_report: Annotated[bool, Option("Also write ByteMLPerf's report files.")] = False


class Flags(What, Source, How, Load, Limits, Output):
    """The command line of `bmp general run`. `data_percent` is of a workload file alone."""

    models: Annotated[
        tuple[str, ...], Argument("Models: names, regular, business, sota, all; a card's YAML; ByteMLPerf's JSON, or a folder of it.")
    ]
    data_percent: float = 100.0


class ConvertFlags(Source, panel="Conversion"):
    """The command line of `bmp convert`."""

    model: Annotated[str, Argument("Model of the zoo, or a card's YAML (see `bmp general models`), or a language model.")]
    to: Annotated[
        str,
        Option(
            "Target format: onnx, openvino, torch-export, or engine (what the backend loads on this machine); "
            "of language models gguf:q8_0 (f16, …), ct2, ort-genai:int4."
        ),
    ]
    out: Annotated[Path | None, Option("File to write. Default: MODEL with the format's ending, here.", "--out -o")] = None
    backend: Annotated[str, Option("For --to engine: openvino (default), onnxruntime, torch-inductor.")] = "openvino"
    precision: Annotated[Precision, Option("Precision:")] = "fp32"
    batch_size: Annotated[int | None, Option("Batch size of the example. Default: the card's smallest.", least=1, most=LARGEST_BATCH)] = (
        None
    )
    force: Annotated[bool, Option("Overwrite the file.")] = False
