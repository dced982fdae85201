"""The flags of `engine check`."""

from __future__ import annotations

from typing import Annotated

from bytemlperf.command.flags import Option, Options, RunOutput, fields_of
from bytemlperf_llm.plan.flags import Engine

CHECK_FLAGS = (
    *(field.name for field in fields_of(Engine) if field.name not in ("engine", "route", "device")),
    *(field.name for field in fields_of(RunOutput) if field.name not in ("perfetto",)),
    "report",
)


class CheckFlags(Options, panel="Check"):
    """What is checked besides."""

    requests: Annotated[int, Option("Requests sent to find leaks; 0 leaves them out.", least=0)] = 1000
