"""The flags of `sweep`, beside those of `serve-bench` that it has too."""

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import Option, Options, fields_of
from bytemlperf_llm.plan.flags import Engine, Limits, Load, Prompts

AXES = ("request_rate", "max_concurrency", "input_len", "output_len", "engine_options")
WITHOUT = (*AXES, "ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps", "ray", "time_scale", "trace_window")
OUTPUT = ("runs_dir", "label", "quiet", "report", "metadata")
SWEEP_FLAGS = (
    *(field.name for part in (Engine, Load, Prompts, Limits) for field in fields_of(part) if field.name not in WITHOUT),
    *OUTPUT,
)


class SweepFlags(Options, panel="Sweep"):
    """The axes, as typed. Every combination of their values is a point."""

    rates: Annotated[
        str | None, Option("Request rates per second, such as 1,2,4,8; or auto (the default): from a light load to overload.")
    ] = None
    concurrency: Annotated[str | None, Option("Concurrent requests of closed loops, such as 1,2,4,8.")] = None
    input_lens: Annotated[str | None, Option("Lengths of synthetic prompts in tokens, such as 128,1024.", "--input-len")] = None
    output_lens: Annotated[str | None, Option("Output tokens per request, such as 64,256.", "--output-len")] = None
    engine_options: Annotated[
        tuple[str, ...], Option("KEY=VALUE, or KEY=A,B,C: the engine restarts for each combination; repeatable.", "--engine-option")
    ] = ()
    resume: Annotated[Path | None, Option("Folder of a stopped sweep to resume; give the same flags again.", run=True)] = None
