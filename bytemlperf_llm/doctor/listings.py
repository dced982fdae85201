"""`bmp-llm engines` and `bmp-llm scenarios`."""

from __future__ import annotations

from bytemlperf.command.exits import markup_of


def print_engines() -> None:
    """Every engine: its versions or what is missing, and its options with their defaults."""
    from rich.console import Console
    from rich.padding import Padding

    from bytemlperf_llm.engine_registry import list_engines

    console = Console(highlight=False)
    for listing in list_engines():
        there = listing.availability
        versions = ", ".join(f"{name} {version}" for name, version in there.versions.items())
        state = (
            f"[red]missing[/] {markup_of(there.missing)}; {markup_of(there.fix)}"
            if there.missing
            else f"[green]ready[/] {markup_of(versions)}"
        )
        options = "  ".join(f"{key}={value}" if value not in ("", "None") else key for key, value in listing.options.items())
        console.print(f"[bold]{listing.name}[/]  {state}")
        console.print(Padding(f"[dim]{markup_of(options)}[/]", (0, 0, 1, 4)))
    console.print("Give options as --engine-option KEY=VALUE; docs/engines.md says what they mean.")


def print_scenarios() -> None:
    """Every built-in scenario."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from bytemlperf_llm.plan.scenario import builtin

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("scenario", style="bold")
    table.add_column("description")
    for scenario in builtin():
        table.add_row(scenario.name, markup_of(scenario.description))
    Console().print(table)
