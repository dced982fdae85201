"""bmp hardware: spec cards and this machine. Parses and wires; tables are made in `tables`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bytemlperf.command.groups import PlainHelpGroup

app = typer.Typer(
    cls=PlainHelpGroup,
    help="Spec cards of accelerators and CPUs, with sources, and this machine's hardware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_Cards = Annotated[
    Path | None,
    typer.Option("--cards", help="Your own cards and price lists: a YAML file or a folder. Default: $BMP_CARDS.", show_default=False),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _root() -> None:
    """Spec cards of accelerators and CPUs, with sources, and this machine's hardware."""


@app.command("list")
def list_cards(
    vendor: Annotated[str | None, typer.Option(help="Only cards of this vendor.", show_default=False)] = None,
    cards: _Cards = None,
    json: _Json = False,
) -> None:
    """List every card: peak, memory, bandwidth, power, price."""
    from bytemlperf.hardware.tables import print_list

    print_list(vendor, cards, json)


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="A card's id, name or alias. Default: this machine.", show_default=False)] = None,
    cards: _Cards = None,
    json: _Json = False,
) -> None:
    """Show one card with the source of each figure; without a name, this machine and its card."""
    from bytemlperf.hardware.tables import print_card, print_machine

    if name is None:
        print_machine(cards, json)
    else:
        print_card(name, cards, json)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Two or more cards; the first is the baseline.", show_default=False)],
    dtype: Annotated[str, typer.Option(help="Data type for performance per currency and per watt.")] = "bf16",
    currency: Annotated[
        str | None, typer.Option(help="Compare prices in this currency. Default: one that the cards share.", show_default=False)
    ] = None,
    cards: _Cards = None,
    json: _Json = False,
) -> None:
    """Compare cards, with performance per currency and per watt."""
    from bytemlperf.hardware.tables import print_comparison

    print_comparison(names, dtype, currency, cards, json)
