"""The flags of `bmp-llm trace`."""

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import Json, Option, Options


class RecordFlags(Options, panel="Options"):
    """What is recorded, and into which file."""

    upstream: Annotated[str, Option("Address of the server that requests are passed on to.")] = "http://127.0.0.1:8000"
    listen: Annotated[int, Option("Port on 127.0.0.1; 0 for any free one.", least=0, most=65535)] = 8001
    out: Annotated[Path, Option("The trace file; one that exists is not overwritten.")] = Path("trace.jsonl")
    keep_text: Annotated[bool, Option("Keep prompts as they are. Default: ids of their blocks alone.")] = False
    tokenizer: Annotated[
        str | None, Option("Folder with tokenizer.json, model name, or 'words', to cut prompts into blocks. Default: estimated by words.")
    ] = None
    trace_block_size: Annotated[int, Option("Tokens per hash id.", least=1)] = 512


class DescribeFlags(Options, panel="Options"):
    """How a trace is read."""

    dataset_name: Annotated[str | None, Option("Format of the trace. Default: as its first row tells.")] = None
    time_scale: Annotated[float, Option("Factor on the trace's times.", above=0)] = 1.0
    trace_block_size: Annotated[int | None, Option("Tokens per hash id. Default: the format's or the file's own.", least=1)] = None
    timed_trace_sec_multiplier: Annotated[float, Option("Seconds per unit of timed_trace's times.", above=0)] = 1.0
    tokenizer: Annotated[
        str | None, Option("Folder with tokenizer.json, or model name, to count texts by. Default: one token per word.")
    ] = None
    json: Json = False
