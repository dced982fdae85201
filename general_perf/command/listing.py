"""What there is: the zoo and the backends, as tables."""

from __future__ import annotations

from collections.abc import Iterator

from bytemlperf.command.console import print_table, terminal
from bytemlperf.errors import UserError
from bytemlperf.runs.kinds import Table
from general_perf.backends.registry import backend, backend_names
from general_perf.card import LanguageModel, Package, Source, zoo
from general_perf.choices import PUBLISHED

WEIGHTS = {"architecture": "random weights", "trained": "trained here"}


def print_models() -> None:
    """Every card in a line."""
    rows = (
        (card.name, card.model_class, card.task, _weights(card.source), card.dataset or "–", ", ".join([PUBLISHED, *card.sizes]))
        for card in zoo().values()
    )
    columns = ("model", "class", "task", "weights", "data", "sizes")
    print_table(terminal(), Table(title="", columns=columns, rows=list(rows), spare=("data", "weights")))


def _weights(source: Source) -> str:
    if isinstance(source, Package):
        return f"package {source.package}"
    if isinstance(source, LanguageModel):
        return source.name
    kind = str(type(source).__struct_config__.tag)
    return WEIGHTS.get(kind, kind)


def print_backends() -> None:
    """Every backend with its versions, or what it lacks."""
    columns = ("backend", "what", "versions", "precisions", "devices", "reads")
    print_table(terminal(), Table(title="", columns=columns, rows=list(_backends()), spare=("what",)))


def _backends() -> Iterator[tuple[str, ...]]:
    for name in backend_names():
        try:
            info = backend(name).describe()
        except (ImportError, UserError) as error:
            yield name, f"not here: {error}", "pip install 'bytemlperf-llm[general]'", "", "", ""
            continue
        versions = ", ".join(f"{package} {version}" for package, version in info.versions.items())
        yield name, info.about, versions, ", ".join(info.precisions), ", ".join(info.devices), ", ".join(info.formats)
