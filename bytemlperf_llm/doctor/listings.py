"""`bmp-llm engines` and `bmp-llm scenarios`."""

from __future__ import annotations

import msgspec

from bytemlperf.command.console import print_table, terminal
from bytemlperf.errors import UserError
from bytemlperf.extensions import ENGINES
from bytemlperf.runs.kinds import Table
from bytemlperf_llm.plan.scenario import builtin
from engines.contract import Engine, availability_of


def print_engines() -> None:
    """Every engine: its versions or what is missing, and its options with their defaults."""
    states, options = [], []
    for name in ENGINES.all():
        try:
            engine: type[Engine] = ENGINES.load(name)
        except UserError as error:
            states.append((name, "missing", f"{error.cause}; {error.fix}"))
            options.append((name, ""))
            continue
        there = availability_of(engine)
        versions = ", ".join(f"{package} {version}" for package, version in there.versions.items())
        states.append((name, "missing", f"{there.missing}; {there.fix}") if there.missing else (name, "ready", versions))
        options.append((name, "  ".join(map(_option, msgspec.structs.fields(engine.options_type)))))
    console = terminal()
    print_table(console, Table(title="", columns=("engine", "here", "versions, or what is missing"), rows=states))
    note = "Give options as --engine-option KEY=VALUE; docs/engines.md says what they mean."
    print_table(console, Table(title="Options and their defaults", columns=("engine", "options"), rows=options, note=note))


def _option(field: msgspec.structs.FieldInfo) -> str:
    return field.name if field.required or field.default in ("", None) else f"{field.name}={field.default}"


def print_scenarios() -> None:
    rows = [(scenario.name, scenario.description) for scenario in builtin()]
    print_table(terminal(), Table(title="", columns=("scenario", "description"), rows=rows))
