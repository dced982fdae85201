"""`bmp runs`: the runs of a directory as a table. Parse, wire, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bytemlperf.catalogue.flags import Selection
from bytemlperf.command.flags import Argument, Option, RunFolder, only, with_flags
from bytemlperf.report.text import counted

app = typer.Typer(help="List, filter, tag and export the runs of a directory.", pretty_exceptions_enable=False, add_completion=False)

_RunsDir = Annotated[Selection, only("runs_dir")]


@app.callback(invoke_without_command=True)
@with_flags
def runs(context: typer.Context, selected: Selection) -> None:
    """List the runs of a directory, newest first."""
    if context.invoked_subcommand is not None:
        return
    from bytemlperf.catalogue.index import asked, selection
    from bytemlperf.catalogue.listing import print_runs

    columns, rows, update = asked(selected.runs_dir, *selection(selected))
    print_runs(columns, rows, update, selected.metrics)


@app.command()
@with_flags
def export(
    out: Annotated[Path, Argument("Output file: FILE.csv, FILE.json or FILE.parquet.")],
    selected: Selection,
    figures: Annotated[bool, Option("Export every figure of these runs, one per row, instead of the runs.")] = False,
) -> None:
    """Export the list, or every figure of its runs, to a file."""
    from bytemlperf.catalogue.exports import check_suffix, write_rows
    from bytemlperf.catalogue.index import asked, selection

    check_suffix(out)
    columns, rows, _ = asked(selected.runs_dir, *selection(selected))
    if figures:
        columns, figure_rows, _ = asked(selected.runs_dir, "SELECT * FROM figures ORDER BY folder, key, metric")
        folders = {row[0] for row in rows}
        rows = [row for row in figure_rows if row[0] in folders]
    write_rows(out, columns, rows)
    print(f"{out}: {counted(len(rows), 'row')}")


@app.command()
@with_flags
def query(sql: Annotated[str, Argument("One SELECT over the tables runs and figures.")], selected: _RunsDir) -> None:
    """Query the index in SQL."""
    from bytemlperf.catalogue.index import asked
    from bytemlperf.catalogue.listing import print_rows

    columns, rows, _ = asked(selected.runs_dir, sql)
    print_rows(columns, rows)


@app.command()
@with_flags
def tag(
    run: RunFolder,
    words: Annotated[tuple[str, ...], Argument("Tags to add.")] = (),
    remove: Annotated[tuple[str, ...], Option("Tag to remove; repeatable.")] = (),
) -> None:
    """Add or remove tags of a run; they are stored in its folder."""
    from bytemlperf.catalogue.tags import change_tags
    from bytemlperf.runs.folder import read_run_json

    read_run_json(run)
    print(f"{run}: {', '.join(change_tags(run, words, remove)) or 'no tags'}")


@app.command()
@with_flags
def index(selected: _RunsDir, rebuild: Annotated[bool, Option("Rebuild it from the run folders.")] = False) -> None:
    """Update the index."""
    from bytemlperf.catalogue.index import Catalogue

    with Catalogue(selected.runs_dir, rebuild=rebuild) as catalogue:
        done = catalogue.update()
    print(f"{counted(done.read, 'run')} read, {done.kept} unchanged, {done.removed} gone" + (f"; {done.note}" if done.note else ""))
