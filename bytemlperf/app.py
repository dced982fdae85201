"""bmp: all suites under one command, and what works on the runs of any of them.

Suites' typer apps and single commands are imported when they are called: the help is the table here, and a line for each
command of another package (entry points in `bytemlperf.suites` and `bytemlperf.commands`). `bmp llm …` is `bmp-llm …`.
"""

from __future__ import annotations

from typing import Any, NoReturn

import typer
import typer.core

from bytemlperf.command.exits import GONE, exit_cleanly
from bytemlperf.command.flags import Json, with_flags
from bytemlperf.command.groups import App, PlainHelpGroup
from bytemlperf.errors import UserError, nearest
from bytemlperf.extensions import POINTS, Extension, Point

OWN = {
    "llm": ("bytemlperf_llm.cli:app", "Benchmark LLM serving the way production sees it."),
    "micro": ("micro.cli:app", "Measure operators and collectives."),
    "general": ("general_perf.cli:app", "Measure common models: compile, accuracy, speed."),
    "train": ("training.cli:app", "Measure training: throughput, scaling, memory."),
    "runs": ("bytemlperf.catalogue.cli:app", "List, filter, tag and export the runs of a directory."),
    "report": ("bytemlperf.report.command:report", "Write a run's report: one file to read or send."),
    "compare": ("bytemlperf.compare.command:compare", "Compare runs, with intervals of the differences."),
    "watch": ("bytemlperf.report.command:watch", "Show a run in progress in the browser."),
    "export": ("bytemlperf_llm.cli:export_run", "Write a run in other tools' formats."),
    "summarize": ("bytemlperf.runs.command:summarize", "Recompute a run's summary from its records."),
    "verify": ("bytemlperf.runs.command:verify", "Check that a run is unchanged."),
    "site": ("bytemlperf.site.cli:app", "Build a static site from many runs."),
    "submit": ("bytemlperf.submit.cli:app", "Check and pack a vendor's submission."),
    "hardware": ("bytemlperf.hardware.cli:app", "Spec cards of accelerators and CPUs; this machine."),
    "predict": ("micro.predict.cli:predict", "Predict an LLM's latency from measured operators."),
    "convert": ("general_perf.cli:convert", "Convert a model for deployment, and check the result."),
}
"""In the order of the help: where a suite's app or a command is, and its line. A suite's target is called `app`."""
PANELS = {"Suites": "llm", "Runs": "runs", "Hardware and models": "hardware"}
"""Heads of the help's lists, with the first command of each."""
EXAMPLES = """
Examples:
  bmp llm serve-bench --base-url http://127.0.0.1:8000 --request-rate 4
  bmp micro gemm
  bmp general resnet50
  bmp train gpt
  bmp compare latest~1 latest
"""
SUITES = Point("suite", "bytemlperf.suites", {name: target for name, (target, _) in OWN.items() if target.endswith(":app")})
COMMANDS = Point("command", "bytemlperf.commands", {name: target for name, (target, _) in OWN.items() if name not in SUITES.built_in})


class Mounted(PlainHelpGroup):
    """The app's own commands, and those of the table and of other packages, each imported when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """In the order of the help."""
        return list(dict.fromkeys([*OWN, *self.commands, *COMMANDS.all(), *SUITES.all()]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """The command, imported. Raises UserError where that fails."""
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        extension = _extension(cmd_name)
        return _loaded(extension) if extension else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As click's; an unknown name is refused with the nearest."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            instead = GONE.get(args[0]) or _meant(args[0]) or f"{nearest(args[0], known)} (see bmp --help)"
            raise UserError(f"unknown command '{args[0]}'", instead)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """A line for each, without importing any; then examples."""
        heads = {first: head for head, first in PANELS.items()}
        lists: list[tuple[str, list[str]]] = []
        for name in self.list_commands(None):
            if name in heads:
                lists.append((heads[name], []))
            lists[-1][1].append(name)
        width = max(len(name) for _, names in lists for name in names)
        for head, names in lists:
            with formatter.section(head):
                formatter.write_dl([(name.ljust(width), self._line(name)) for name in names])
        formatter.write(EXAMPLES)

    def _line(self, name: str) -> str:
        if name in self.commands:
            return self.commands[name].get_short_help_str(60)
        if name in OWN:
            return OWN[name][1]
        extension = _extension(name)
        return f"From {extension.package}." if extension else ""


def _extension(name: str) -> Extension | None:
    own = next((point.find(name) for point in (COMMANDS, SUITES) if name in point.built_in), None)
    return own or COMMANDS.all().get(name) or SUITES.all().get(name)


def _meant(word: str) -> str:
    """The command that has this word: a suite's command, or one that takes it; empty where none has."""
    for suite in SUITES.built_in:
        group = _loaded(SUITES.find(suite))
        if word in group.commands or word in getattr(group, "subjects_of", list)():
            return f"use: bmp {suite} {word}"
    return ""


def _loaded(extension: Extension) -> Any:
    holder = typer.Typer(add_completion=False)
    loaded = extension.load()
    if extension.point is SUITES:
        holder.add_typer(loaded, name=extension.name)
    else:
        holder.command(extension.name)(loaded)
    return typer.main.get_group(holder).commands[extension.name]


app = App("Benchmark accelerators: serving, operators, models, training.", Mounted, "bmp")


@app.command()
@with_flags
def extensions(json: Json = False) -> None:
    """List engines, providers, backends, and what starts here."""
    from bytemlperf.command.listing import print_extensions

    print_extensions((*POINTS, SUITES, COMMANDS), json)


def main() -> NoReturn:
    """Run the command that was given."""
    exit_cleanly(app)
