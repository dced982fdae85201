"""bmp hardware: spec cards and this machine. Parses and wires; tables are made in `tables`."""

from __future__ import annotations

from typing import Annotated

from bytemlperf.command.flags import Argument, CardFiles, Json, Option, with_flags
from bytemlperf.command.groups import App

app = App("Spec cards of accelerators and CPUs, with sources, and this machine's hardware.")


@app.command("list")
@with_flags
def list_cards(
    vendor: Annotated[str | None, Option("Only cards of this vendor.")] = None,
    cards: CardFiles = None,
    json: Json = False,
) -> None:
    """List every card: peak, memory, bandwidth, power, price."""
    from bytemlperf.hardware.tables import print_list

    print_list(vendor, cards, json)


@app.command(short_help="Show one card with its sources, or this machine.")
@with_flags
def show(
    name: Annotated[str | None, Argument("A card's id, name or alias. Default: this machine.")] = None,
    cards: CardFiles = None,
    json: Json = False,
) -> None:
    """Show one card with the source of each figure; without a name, this machine and its card."""
    from bytemlperf.hardware.tables import print_card, print_machine

    if name is None:
        print_machine(cards, json)
    else:
        print_card(name, cards, json)


@app.command()
@with_flags
def compare(
    names: Annotated[tuple[str, ...], Argument("Two or more cards; the first is the baseline.")],
    precision: Annotated[str, Option("Precision for performance per currency and per watt.")] = "bf16",
    currency: Annotated[str | None, Option("Compare prices in this currency. Default: one that the cards share.")] = None,
    cards: CardFiles = None,
    json: Json = False,
) -> None:
    """Compare cards, with performance per currency and per watt."""
    from bytemlperf.hardware.tables import print_comparison

    print_comparison(names, precision, currency, cards, json)
