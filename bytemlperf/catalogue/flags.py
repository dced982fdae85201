"""The flags of `bmp runs`."""

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import Option, Options
from bytemlperf.runs.names import RUNS_DIR


class Selection(Options):
    """Which runs, in which order, with a column for each of `metrics`. `where` are conditions in SQL."""

    runs_dir: Annotated[Path, Option("The runs directory.")] = RUNS_DIR
    where: Annotated[tuple[str, ...], Option("Only runs that match this SQL condition: \"verdict = 'valid'\"; repeatable.")] = ()
    metrics: Annotated[tuple[str, ...], Option("Add a column with this figure, such as 'ttft p50'; repeatable.", "--metric")] = ()
    sort: Annotated[str | None, Option("Column to sort by; a leading - sorts descending. Default: newest first.")] = None
    tags: Annotated[tuple[str, ...], Option("Only runs with this tag; repeatable.", "--tag")] = ()
    kind: Annotated[str | None, Option("Only runs of this kind.")] = None
    limit: Annotated[int | None, Option("Limit on the number of runs.", least=1)] = None
