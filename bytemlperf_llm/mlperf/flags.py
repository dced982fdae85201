"""The flags of `endpoints run` and `endpoints export`."""

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import Option, Options, fields_of
from bytemlperf_llm.plan.flags import Engine, Limits

LOAD = ("scenario", "seed", "ignore_eos", "temperature", "top_p", "top_k")
PROMPTS = ("input_len", "random_prefix_len", "output_len", "tokenizer")
OUTPUT = ("runs_dir", "label", "quiet", "report", "metadata", "keep_output")
RUN_FLAGS = (*(field.name for part in (Engine, Limits) for field in fields_of(part)), *LOAD, *PROMPTS, *OUTPUT)


class SubmissionFlags(Options, panel="Submission"):
    """What a submission folder is made of beside the runs."""

    disclosure: Annotated[Path | None, Option("YAML file that states system, model and data set; see docs/endpoints.md.")] = None
    dataset_size: Annotated[int | None, Option("Prompts in one pass. Default: those of the prompt files.", least=1)] = None
    out: Annotated[Path, Option("Directory for the submission folder.")] = Path("submissions")


class PointFlags(Options, panel="Points"):
    """Which points are measured, and for how long."""

    concurrency: Annotated[str | None, Option("Points, such as 1,4,16,64,256. Default: seven up to --max-concurrency, or 256.")] = None
    max_concurrency: Annotated[
        int | None, Option("Most that the system supports (C_max). Default: the highest point, or 256.", least=8, most=100_000)
    ] = None
    short: Annotated[bool, Option("Six passes a point, however short: not submittable, and labelled so.")] = False
    seed_set: Annotated[str | None, Option("Published seed set to bind, such as A.")] = None
    resume: Annotated[Path | None, Option("Folder of stopped points to resume; give the same flags again.", run=True)] = None
