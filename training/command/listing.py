"""The built-in workloads and their sizes, for a terminal."""

from __future__ import annotations

from bytemlperf.command.console import print_table, terminal
from bytemlperf.runs.kinds import Table
from training.workload import workload as workloads
from training.workload.flops import parameters
from training.workload.workload import Workload, vocabulary


def print_workloads() -> None:
    """A table."""
    rows = [(each.name, _size(each), each.training.global_batch, each.description) for each in map(workloads.load, workloads.names())]
    print_table(terminal(), Table(title="", columns=("workload", "parameters", "batch", "description"), rows=rows))


def _size(workload: Workload) -> str:
    if workload.family == "resnet":
        return "–"
    return f"{parameters(workload, vocabulary(workload.data.tokenizer)) / 1e6:,.1f} M"
