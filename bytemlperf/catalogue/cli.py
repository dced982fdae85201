"""`bmp runs`: the runs of a directory as a table. Parse, wire, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bytemlperf.catalogue.index import Update, Wanted

DEFAULT_DIR = Path("runs")

app = typer.Typer(help="List, filter, tag and export the runs of a directory.", pretty_exceptions_enable=False, add_completion=False)

_Dir = Annotated[Path, typer.Option("--dir", help="The runs directory. Default: runs.", show_default=False)]
_Where = Annotated[list[str] | None, typer.Option(help="Only runs that match this SQL condition: \"verdict = 'valid'\"; repeatable.")]
_Metric = Annotated[list[str] | None, typer.Option(help="Add a column with this figure, such as 'ttft p50'; repeatable.")]
_Sort = Annotated[str | None, typer.Option(help="Column to sort by; a leading - sorts descending. Default: newest first.")]
_Tag = Annotated[list[str] | None, typer.Option(help="Only runs with this tag; repeatable.")]
_Kind = Annotated[str | None, typer.Option(help="Only runs of this kind.")]
_Limit = Annotated[int | None, typer.Option(min=1, help="Limit on the number of runs.")]


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    directory: _Dir = DEFAULT_DIR,
    where: _Where = None,
    metric: _Metric = None,
    sort: _Sort = None,
    tag: _Tag = None,
    kind: _Kind = None,
    limit: _Limit = None,
) -> None:
    """List the runs of a directory, newest first."""
    if context.invoked_subcommand is not None:
        return
    from bytemlperf.catalogue.index import Wanted
    from bytemlperf.catalogue.listing import print_runs

    columns, rows, update = _select(directory, Wanted(metric or (), where or (), kind, tag or (), sort, limit))
    print_runs(columns, rows, update, metric or [])


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="Output file: FILE.csv, FILE.json or FILE.parquet.", show_default=False)],
    directory: _Dir = DEFAULT_DIR,
    where: _Where = None,
    metric: _Metric = None,
    sort: _Sort = None,
    tag: _Tag = None,
    kind: _Kind = None,
    limit: _Limit = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Export every figure of these runs, one per row, instead of the runs.")
    ] = False,
) -> None:
    """Export the list, or every figure of its runs, to a file."""
    from bytemlperf.catalogue.exports import check_suffix, write_rows
    from bytemlperf.catalogue.index import Wanted

    check_suffix(out)
    columns, rows, _ = _select(directory, Wanted(metric or (), where or (), kind, tag or (), sort, limit))
    if figures:
        columns, rows = _figures(directory, [row[0] for row in rows])
    write_rows(out, columns, rows)
    print(f"{out}: {len(rows)} rows")


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SELECT over the tables runs and figures.", show_default=False)],
    directory: _Dir = DEFAULT_DIR,
) -> None:
    """Query the index in SQL."""
    from bytemlperf.catalogue.index import Catalogue
    from bytemlperf.catalogue.listing import print_rows

    with Catalogue(directory) as catalogue:
        catalogue.update()
        print_rows(*catalogue.ask(sql))


@app.command()
def tag(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    words: Annotated[list[str] | None, typer.Argument(help="Tags to add.", show_default=False)] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Tag to remove; repeatable.")] = None,
) -> None:
    """Add or remove tags of a run; they are stored in its folder."""
    from bytemlperf.catalogue.tags import change_tags
    from bytemlperf.runs.folder import read_run_json

    read_run_json(run)
    print(f"{run}: {', '.join(change_tags(run, words or [], remove or [])) or 'no tags'}")


@app.command()
def index(
    directory: _Dir = DEFAULT_DIR,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Rebuild it from the run folders.")] = False,
) -> None:
    """Update the index."""
    from bytemlperf.catalogue.index import Catalogue

    with Catalogue(directory, rebuild=rebuild) as catalogue:
        done = catalogue.update()
    print(f"{done.read} runs read, {done.kept} unchanged, {done.removed} gone" + (f"; {done.note}" if done.note else ""))


def _select(directory: Path, wanted: Wanted) -> tuple[list[str], list[tuple[Any, ...]], Update]:
    from bytemlperf.catalogue.index import Catalogue, selection

    with Catalogue(directory) as catalogue:
        update = catalogue.update()
        columns, rows = catalogue.ask(*selection(wanted))
    return columns, rows, update


def _figures(directory: Path, folders: list[str]) -> tuple[list[str], list[tuple[Any, ...]]]:
    from bytemlperf.catalogue.index import Catalogue

    with Catalogue(directory) as catalogue:
        catalogue.update()
        columns, rows = catalogue.ask("SELECT * FROM figures ORDER BY folder, key, metric")
    chosen = set(folders)
    return columns, [row for row in rows if row[0] in chosen]
