"""The flags of a campaign's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from bytemlperf.command.flags import Option, RunOutput, fields_of
from bytemlperf_llm.plan.flags import Limits, Load, Prompts

SETTINGS = tuple(field.name for part in (Load, Prompts, Limits) for field in fields_of(part) if field.name != "ray")
"""Flags of `serve-bench` that say what every run of a shootout is."""


class CampaignFlags(RunOutput):
    """Where a campaign goes on, and when it fails."""

    compares = True
    resume: Annotated[Path | None, Option("Folder of a stopped campaign to resume.", run=True)] = None
    fail_if: Annotated[
        tuple[str, ...], Option("Fail (exit 1) if: 'ttft p99 > 5%' against the first engine, 'e2e p50 > 900' in any; repeatable.")
    ] = ()


class ShootoutFlags(CampaignFlags, panel="Shootout"):
    """A campaign without a file."""

    engines: Annotated[str, Option("Engines between commas, the baseline first; a server as NAME=URL: vllm,staging=http://127.0.0.1:8000.")]
    model: Annotated[str | None, Option("Model of every engine, as serve-bench has it.")] = None
    repeats: Annotated[int, Option("Runs of each engine.", least=1, most=1000)] = 1
    order: Annotated[Literal["stated", "shuffled"], Option("Order of the runs:")] = "stated"
    cool_down_s: Annotated[float, Option("Seconds between two runs.", least=0)] = 0.0
