"""What `bmp micro list` prints."""

from __future__ import annotations

from bytemlperf.command.console import print_table, terminal
from bytemlperf.runs.kinds import Table
from micro.operators.contract import REQUIRED, Argument
from micro.providers.registry import find_provider, provider_names
from micro.registry import FAMILIES


def print_lists() -> None:
    """Operators by family with their arguments and defaults, and providers."""
    console = terminal()
    operators = [
        (operator.name, family, operator.help, " ".join(map(_argument, operator.arguments)))
        for family, members in FAMILIES.items()
        for operator in members
    ]
    print_table(console, Table(title="Operators", columns=("operator", "family", "what", "arguments (=default)"), rows=operators))
    providers = [(name, find_provider(name).help) for name in provider_names()]
    print_table(console, Table(title="Providers", columns=("provider", "what"), rows=providers))


def _argument(argument: Argument) -> str:
    return argument.name if argument.default is REQUIRED else f"{argument.name}={argument.default}"
