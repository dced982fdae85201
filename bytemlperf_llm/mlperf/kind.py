"""The kind `endpoints`: points at fixed concurrency, each a run folder inside, told as a sweep's; the submission lies beside them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bytemlperf.runs.records import RunRecords
from bytemlperf_llm.sweep.kind import SweepKind, rows_of
from bytemlperf_llm.sweep.row import PointRow

KIND_NAME = "endpoints"
BAD = ("invalid", "failing")


class EndpointsKind(SweepKind):
    """One curve."""

    name = "MLPerf Endpoints points"
    valid_means = "Every point was measured."


KIND = EndpointsKind()


def folders_of(records: Iterable[PointRow], folder: Path) -> dict[int, Path]:
    """The run folders of points that can be submitted, by concurrency."""
    rows = (row for row in rows_of(records) if row.state == "measured" and row.verdict not in BAD)
    return {row.load.concurrency: folder / row.folder for row in rows if row.load.concurrency is not None}


def points_in(folder: Path) -> list[Path]:
    """The same of a folder of this kind. Raises UserError where its records can't be read."""
    return list(folders_of(RunRecords(folder, PointRow), folder).values())
