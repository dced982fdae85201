"""`bmp-llm engines` and `bmp-llm scenarios`."""

from __future__ import annotations


def print_engines() -> None:
    """Every engine: what it is, its versions or what is missing, its options."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from bytemlperf_llm.engine_registry import list_engines

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("engine", "ready", "versions, or what is missing", "options (--engine-option KEY=VALUE)"):
        table.add_column(title, overflow="fold")
    for listing in list_engines():
        there = listing.availability
        versions = ", ".join(f"{name} {version}" for name, version in there.versions.items())
        state = versions or "built in" if not there.missing else f"{there.missing}; {there.fix}"
        options = ", ".join(f"{key}={value}" if value else key for key, value in listing.options.items())
        table.add_row(f"[bold]{listing.name}[/]", "[red]no[/]" if there.missing else "[green]yes[/]", _escaped(state), _escaped(options))
    Console().print(table)


def print_scenarios() -> None:
    """Every built-in scenario."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from bytemlperf_llm.scenario import builtin

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("scenario", style="bold")
    table.add_column("what it is")
    for scenario in builtin():
        table.add_row(scenario.name, _escaped(scenario.description))
    Console().print(table)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
