"""The energy of a run, as it was measured: by this machine where the engine ran on it, else by a page of metrics that tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bytemlperf.runs.folder import part
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.metrics.counted import counted_of

PART = "power"
COUNT = "energy_j"


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """`energy` of summary.json: mean power over the measured part, of all devices that `source` tells of, idle ones too. Per token:
    of output alone, and with the prompts'; None where their number isn't known."""

    watts: float
    source: str
    joules: float
    joules_per_output_token: float | None
    joules_per_token: float | None


def energy_of(run: dict[str, Any], summary: Mapping[str, Any]) -> Energy | None:
    """From run.json and the run's summary; None where nothing measured it. Raises msgspec.ValidationError."""
    span_s = (part(run, "end").get("duration_ns") or 0) / NS_PER_S
    counted = {name: joules for name, joules in counted_of(run).counts.items() if name == COUNT or name.endswith(f"_{COUNT}")}
    power = part(run, PART)
    if not span_s or not (power or counted):
        return None
    names = [name.removesuffix(COUNT).rstrip("_") or "the server" for name in counted]
    joules = msgspec.convert(power["value"], float) * span_s if power else sum(counted.values())
    tokens = summary["tokens"]
    output, prompts = tokens["output_tokens"], tokens["prompt_tokens"]
    known = not tokens["answers_without_prompt_count"]
    return Energy(
        watts=joules / span_s,
        source=str(power["source"]) if power else f"measured by {' and '.join(names)}",
        joules=joules,
        joules_per_output_token=joules / output if output else None,
        joules_per_token=joules / (output + prompts) if known and output + prompts else None,
    )
