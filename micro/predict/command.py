"""`bmp predict`: parse, wire, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[
        str, typer.Option(help="A checkpoint folder, a config.json, or a name such as smollm2, synthetic or org/name.", show_default=False)
    ],
    batch: Annotated[int, typer.Option(help="Concurrent streams.", min=1)] = 1,
    input_len: Annotated[int, typer.Option(help="Tokens per prompt.", min=1)] = 512,
    output_len: Annotated[int, typer.Option(help="Output tokens per request.", min=1)] = 128,
    tp: Annotated[int, typer.Option("--tp", help="Tensor parallel ranks.", min=1)] = 1,
    hardware: Annotated[
        str | None, typer.Option(help="Model this spec card (see `bmp hardware list`) by roofline, without measuring.", show_default=False)
    ] = None,
    cards: Annotated[Path | None, typer.Option(help="Your own spec cards, for --hardware.", show_default=False)] = None,
    from_run: Annotated[
        Path | None, typer.Option(help="Interpolate times from this run folder of bmp micro, without measuring.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="Data type: bfloat16, float16, float32, or auto (an engine's choice here).")] = "auto",
    device: Annotated[str, typer.Option(help="Device to measure on: cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads of CPU kernels; 0: as many as an engine uses, all cores but one.", min=0)] = 0,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider",
            "-p",
            help="Kernel provider (repeatable); the fastest counts. Default: torch and sdpa; for vllm also onednn and vllm.",
            show_default=False,
        ),
    ] = None,
    measure_seconds: Annotated[float, typer.Option(help="Maximum sampling time per operator, in seconds.", min=0.01)] = 1.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again instead of using cached times.")] = False,
    workload: Annotated[
        Path | None,
        typer.Option(help="Write the operators as a workload file for `bmp micro run`, without measuring.", show_default=False),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(help="Run this engine (transformers or vllm) on the same work and print the prediction error.", show_default=False),
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Directory for --check's run folder.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Predict TTFT, TPOT and throughput of a model from its operators."""
    from micro.predict.run import Wish, run

    wish = Wish(
        model=model,
        batch=batch,
        input_len=input_len,
        output_len=output_len,
        tp=tp,
        hardware=hardware,
        cards=cards,
        from_run=from_run,
        dtype=dtype,
        device=device,
        threads=threads,
        providers=tuple(provider or ()),
        measure_s=measure_seconds,
        fresh=fresh,
        workload=workload,
        check=check,
        runs_dir=runs_dir,
    )
    run(wish, as_json=as_json)
