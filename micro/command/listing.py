"""What `bmp micro list` prints."""

from __future__ import annotations

from micro.operators.contract import REQUIRED, Argument
from micro.providers.registry import find_provider, provider_names
from micro.registry import OPERATORS

PIPED_WIDTH = 200


def print_lists() -> None:
    """Operators by family with their arguments and defaults, and providers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    operators = Table(title="Operators", title_justify="left", box=None, header_style="bold")
    for column in ("operator", "family", "what", "arguments (=default)"):
        operators.add_column(column, overflow="fold", no_wrap=column == "operator")
    for operator in OPERATORS.values():
        arguments = " ".join(map(_argument, operator.arguments))
        operators.add_row(operator.name, operator.family, Text(operator.help), Text(arguments))
    providers = Table(title="\nProviders", title_justify="left", box=None, header_style="bold")
    providers.add_column("provider")
    providers.add_column("what")
    for name in provider_names():
        providers.add_row(name, Text(find_provider(name).help))
    console.print(operators, providers)


def _argument(argument: Argument) -> str:
    return argument.name if argument.default is REQUIRED else f"{argument.name}={argument.default}"
