"""bmp submit: is a folder a submission, and pack it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bytemlperf.command.flags import Argument, Json, Option, with_flags
from bytemlperf.command.groups import App

app = App("Check and pack a vendor's submission.")

_Folder = Annotated[Path, Argument("A folder with submission.yaml and runs/.")]


@app.command(short_help="Apply the rules to a submission.")
@with_flags
def check(folder: _Folder, json: Json = False) -> None:
    """Apply the rules: models, complete and verified runs, a reproducible environment, precision and sparsity."""
    from bytemlperf.submit.report import check_and_tell

    raise typer.Exit(check_and_tell(folder, json))


@app.command()
@with_flags
def pack(
    folder: _Folder,
    out: Annotated[Path | None, Option("Archive to write. Default: the folder's name with .tar.gz, beside it.")] = None,
) -> None:
    """Check, then write one archive with a list of SHA-256 sums. The same folder gives the same bytes."""
    from bytemlperf.submit.report import pack_and_tell

    raise typer.Exit(pack_and_tell(folder, out))
