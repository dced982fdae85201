"""The flags of `bmp predict`."""

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import CardFiles, Device, Json, Option, Options


class Flags(Options):
    """As typed."""

    model: Annotated[str, Option("A checkpoint folder, a config.json, or a name such as smollm2, synthetic or org/name.")]
    batch_size: Annotated[int, Option("Concurrent streams.", least=1)] = 1
    input_len: Annotated[int, Option("Tokens per prompt.", least=1)] = 512
    output_len: Annotated[int, Option("Output tokens per request.", least=1)] = 128
    tp: Annotated[int, Option("Tensor parallel ranks.", least=1)] = 1
    card: Annotated[str | None, Option("Model this spec card (see `bmp hardware list`) by roofline, without measuring.")] = None
    cards: CardFiles = None
    from_run: Annotated[Path | None, Option("Interpolate times from this run folder of bmp micro, without measuring.")] = None
    precision: Annotated[str, Option("Precision: fp32, bf16, fp16, or auto (default: an engine's choice here).")] = "auto"
    device: Device = "cpu"
    threads: Annotated[int, Option("Threads of CPU kernels. Default: as many as an engine uses, all cores but one.", least=0)] = 0
    providers: Annotated[
        tuple[str, ...],
        Option(
            "Kernel provider (repeatable); the fastest counts. Default: torch and sdpa; for vllm also onednn and vllm.", "--provider -p"
        ),
    ] = ()
    seconds: Annotated[float, Option("Maximum sampling time per operator, in seconds.", least=0.01)] = 1.0
    fresh: Annotated[bool, Option("Measure again instead of using cached times.")] = False
    workload: Annotated[Path | None, Option("Write the operators as a workload file for `bmp micro run`, without measuring.")] = None
    engine: Annotated[
        str | None,
        Option("Predict this engine (transformers, vllm or openvino): also what lies between its operators."),
    ] = None
    check: Annotated[str | None, Option("Predict this engine, run it on the same work and print the prediction error.")] = None
    runs_dir: Annotated[Path, Option("Directory for --check's run folder.")] = Path("runs")
    json: Json = False
