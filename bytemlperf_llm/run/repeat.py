"""A run's command line, from its run.json: for `resume`, and for `serve-bench --config RUN`, which runs it once more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.command.flags import fields_of
from bytemlperf.errors import UserError
from bytemlperf.redaction import REDACTED
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import part, read_run_json
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, plan_again
from bytemlperf_llm.plan.scenario import scenario_of, seed_of
from bytemlperf_llm.run.trust import refuse_other_address, refuse_unconfirmed
from bytemlperf_llm.workload.schedule import Schedule

OF_THIS_RUN = ("runs_dir", "quiet")
"""Flags that a run's folder never decides."""


def repeat_plan(folder: Path, flags: Flags, given: Collection[str], *, trust: bool) -> Plan:
    """What the run in `folder` was, with those of `flags` that are `given` in place of its own. Its rate is the one that it ran at,
    its schedule the same where nothing given changes it. Raises UserError."""
    if "scenario" in given:
        raise UserError("--config repeats a run with its own scenario", "leave out --config, or --scenario")
    run = read_run_json(folder)
    if run.get("kind") != "llm":
        raise UserError(f"{folder} is a run of kind {run.get('kind')}", "name a run of bmp-llm serve-bench")
    changes = {field.name: getattr(flags, field.name) for field in fields_of(Flags) if field.name in (*given, *OF_THIS_RUN)}
    with damage_said(folder):
        merged = flags_of(run, changes, trust=trust)
        scenario = scenario_of(run).override({"prompts.salt": None})
        plan = plan_again(merged, Flags(**changes), scenario)
        load = plan.load
        alike = load.scenario == scenario and load.seed == seed_of(run)
        if alike and Schedule(load.scenario, load.seed).describe().sha256 != run.get("schedule_sha256"):
            raise UserError(f"{folder} has another schedule than its configuration makes here", "its prompt files have changed")
    return plan


def same_flags(run: dict[str, Any], headers: tuple[str, ...], base_url: str | None, *, trust: bool) -> Flags:
    """The flags of a run that goes on, on the server that it had. Raises UserError."""
    refuse_other_address(part(run, "config", "flags").get("base_url"), base_url)
    return flags_of(run, {"headers": headers} | ({} if base_url is None else {"base_url": base_url}), trust=trust)


def flags_of(run: dict[str, Any], given: Mapping[str, Any], *, trust: bool) -> Flags:
    """The command line's flags as run.json keeps them, with those that are `given` anew. Without `trust` nothing that runs
    code, reaches out, listens or writes elsewhere. Raises UserError that names what is missing or not confirmed."""
    config = run["config"]
    try:
        kept = dict(config["flags"]) | dict(given)
    except (KeyError, TypeError, ValueError):
        raise UserError("run.json holds no flags", "it was damaged; run again") from None
    _refuse_redacted(kept)
    again = {_name(header) for header in given.get("headers", ())}
    missing = {str(name).strip().lower() for name in config.get("header_names", ())} - again
    if missing:
        name = sorted(missing)[0]
        raise UserError(f"the run sent a header {name!r}, whose value is never stored", f"give it again with --header '{name}: VALUE'")
    unknown = sorted(kept.keys() - {field.name for field in fields_of(Flags)})
    if unknown:
        raise UserError(f"run.json has the flag {unknown[0]!r}, which this program doesn't know", "take the version that ran it")
    try:
        flags = Flags.of(kept)
    except (msgspec.ValidationError, TypeError) as error:
        raise UserError(f"run.json's flags are damaged: {error}", "run again") from None
    if not trust:
        refuse_unconfirmed(flags, config, given)
    return flags


def _refuse_redacted(kept: dict[str, Any]) -> None:
    for field in fields_of(Flags):
        if REDACTED in str(kept.get(field.name)):
            fix = f"give it again with {field.flag}" if field.name == "base_url" else "run again, with all of its flags"
            raise UserError(f"{field.flag} held a secret, which is never stored", fix)


def _name(header: str) -> str:
    return header.partition(":" if ":" in header else "=")[0].strip().lower()
