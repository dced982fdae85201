"""`bmp-llm engines` and `bmp-llm scenarios`."""

from __future__ import annotations

from bytemlperf.command.console import print_table, terminal
from bytemlperf.runs.kinds import Table
from bytemlperf_llm.engine_registry import EngineListing, list_engines
from bytemlperf_llm.plan.scenario import builtin


def print_engines() -> None:
    """Every engine: its versions or what is missing, and its options with their defaults."""
    engines = list_engines()
    console = terminal()
    print_table(console, Table(title="", columns=("engine", "here", "versions, or what is missing"), rows=list(map(_state, engines))))
    options = [(engine.name, "  ".join(_option(*item) for item in engine.options.items())) for engine in engines]
    note = "Give options as --engine-option KEY=VALUE; docs/engines.md says what they mean."
    print_table(console, Table(title="Options and their defaults", columns=("engine", "options"), rows=options, note=note))


def _state(engine: EngineListing) -> tuple[str, str, str]:
    there = engine.availability
    if there.missing:
        return engine.name, "missing", f"{there.missing}; {there.fix}"
    return engine.name, "ready", ", ".join(f"{name} {version}" for name, version in there.versions.items())


def _option(name: str, default: str) -> str:
    return name if default in ("", "None") else f"{name}={default}"


def print_scenarios() -> None:
    """Every built-in scenario."""
    print_table(terminal(), Table(title="", columns=("scenario", "description"), rows=builtin()))
