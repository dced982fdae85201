"""The built-in workloads and their sizes, for a terminal."""

from __future__ import annotations

from training.workload import workload as workloads
from training.workload.flops import parameters
from training.workload.workload import Workload, vocabulary


def print_workloads() -> None:
    """A table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("workload", style="bold", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("batch", justify="right")
    table.add_column("description")
    for name in workloads.names():
        workload = workloads.load(name)
        table.add_row(name, _size(workload), str(workload.training.global_batch), workload.description)
    Console().print(table)


def _size(workload: Workload) -> str:
    if workload.family == "resnet":
        return "–"
    count = parameters(workload, vocabulary(workload.data.tokenizer))
    return f"{count / 1e6:,.1f} M"
