"""What there is: the zoo and the backends, as tables."""

from __future__ import annotations

from typing import Any

from bytemlperf.errors import UserError


def print_models() -> None:
    """Every card in a line."""
    from rich import box
    from rich.table import Table

    from bytemlperf.command.console import terminal
    from general_perf.card import PUBLISHED, zoo

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "class", "task", "weights", "data", "sizes"):
        table.add_column(name, no_wrap=name != "task")
    for card in zoo().values():
        sizes = ", ".join([PUBLISHED, *card.sizes])
        table.add_row(card.name, card.model_class, card.task, _weights(card.source), card.dataset or "–", sizes)
    terminal().print(table)


def _weights(source: Any) -> str:
    if source.kind == "architecture":
        return "random weights"
    words = {
        "package": f"package {getattr(source, 'package', '')}",
        "trained": "trained here",
        "language_model": getattr(source, "name", ""),
    }
    return str(words.get(source.kind, source.kind))


def print_backends() -> None:
    """Every backend with its versions, or what it lacks."""
    from rich import box
    from rich.table import Table

    from bytemlperf.command.console import terminal
    from general_perf.backends.registry import backend, backend_names

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("backend", "what", "versions", "precisions", "devices", "reads"):
        table.add_column(name)
    for name in backend_names():
        try:
            info = backend(name).describe()
        except (ImportError, UserError) as error:
            table.add_row(name, f"not here: {error}", "pip install 'bytemlperf-llm\\[general]'", "", "", "")
            continue
        versions = ", ".join(f"{package} {version}" for package, version in info.versions.items())
        table.add_row(name, info.about, versions, ", ".join(info.precisions), ", ".join(info.devices), ", ".join(info.formats))
    terminal().print(table)
