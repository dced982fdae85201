"""bmp convert: the compile step as a conversion tool. Parses, wires, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _option(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, show_default=False)


def convert(
    model: Annotated[str, typer.Argument(help="Model of the zoo, or a card's YAML; see `bmp general models`.", show_default=False)],
    to: Annotated[str, _option("Target format: onnx, openvino, torch-export, or engine (what the backend loads on this machine).")],
    output: Annotated[Path | None, _option("File to write. Default: MODEL with the format's ending, here.", "--output", "-o")] = None,
    backend: Annotated[str, _option("For --to engine: openvino (default), onnxruntime, torch-inductor.")] = "openvino",
    precision: Annotated[str, _option("Precision: fp32 (default), bf16, fp16, int8.")] = "fp32",
    size: Annotated[str, _option("Model size: published (default), or a variant of the card such as small.")] = "published",
    weights: Annotated[Path | None, _option("Use these weights: safetensors, ONNX, TorchScript, or a checkpoint folder.")] = None,
    dim: Annotated[list[str] | None, _option("NAME=SIZE of the card's dims; repeatable.")] = None,
    batch_size: Annotated[int | None, _option("Batch size of the example. Default: the card's smallest.")] = None,
    backend_option: Annotated[list[str] | None, _option("Backend option as KEY=VALUE, such as opset=18; repeatable.")] = None,
    calibration_samples: Annotated[int, _option("Calibration samples for int8. Default: 16.")] = 16,
    force: Annotated[bool, _option("Overwrite the file.", "--force")] = False,
) -> None:
    """Convert a model for deployment, and check the result against the source."""
    from bytemlperf.command.flags import pairs
    from general_perf.convert.convert import Wanted, run_convert
    from general_perf.pairs import numbers

    wanted = Wanted(
        model=model,
        to=to,
        output=output,
        backend=backend,
        precision=precision,
        size=size,
        weights=weights,
        dims=numbers(dim or [], "--dim"),
        batch_size=batch_size,
        extra=pairs("--backend-option", backend_option or []),
        calibration_samples=calibration_samples,
        force=force,
    )
    raise typer.Exit(run_convert(wanted))
