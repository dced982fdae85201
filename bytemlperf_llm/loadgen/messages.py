"""What a fleet and its members say to each other: JSON lines, a tag each, never pickles."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf_llm.live.metrics import MetricsDelta
from bytemlperf_llm.metrics.recount import Counted
from bytemlperf_llm.workload.schedule import Remaining
from engines.contract import Model


class MemberSpec(msgspec.Struct, kw_only=True):
    """Everything that a member needs. It holds header values, so it goes through a pipe or a call,
    never onto a command line. `scenario` is resolved; `scenario_folder` is as in run.json."""

    engine: str
    engine_options: dict[str, str]
    model: Model | None
    scenario: dict[str, Any]
    scenario_folder: str
    seed: int
    worker: int = 0
    workers: int
    keep_output: bool
    live: bool  # single TTFTs and TPOTs are wanted
    left: Remaining | None = None  # of a run that goes on
    tokenizer: str | None = None  # by which answers are counted again: a folder, or `words`
    log: str = ""  # where to write the records, on the member's machine


class Go(msgspec.Struct, tag="go"):
    """Replay; `origin_ns` is zero of the schedule on the member's own CLOCK_MONOTONIC."""

    origin_ns: int


class Stop(msgspec.Struct, tag="stop"):
    """Send nothing more, wait for what is in flight."""


class Ready(msgspec.Struct, tag="ready"):
    """Engine started, schedule and log open."""


class Refused(msgspec.Struct, tag="refused"):
    """It can't start, or can't go on: a user error."""

    cause: str
    fix: str


class Seen(msgspec.Struct, tag="seen"):
    """Once a second, and at the end. `issued` counts from the beginning."""

    issued: int
    metrics: MetricsDelta


class Note(msgspec.Struct, tag="note"):
    """A line for the user: what the member wrote to its standard error."""

    text: str


class Ended(msgspec.Struct, tag="ended"):
    """The replay is over and its log is closed."""

    issued: int
    loop_utilisation: float
    stopped: bool
    failure: str
    counted: list[Counted] = []


ToMember = Go | Stop
FromMember = Ready | Refused | Seen | Note | Ended


class MemberLost(Exception):
    """A member ended without having said so."""
