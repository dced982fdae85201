"""submission.yaml: what a submitter declares, checked at the edge."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from msgspec import Meta

from bytemlperf import checked_yaml
from bytemlperf.checked import Checked
from bytemlperf.errors import UserError

NAME = "submission.yaml"
Word = Annotated[str, Meta(pattern=r"\S", max_length=200)]
RelativePath = Annotated[str, Meta(min_length=1)]


class Environment(Checked, frozen=True, kw_only=True):
    """How someone else gets the same software: a lock and an image or an install script; paths are below the folder."""

    lock: RelativePath
    image: str | None = None
    install: RelativePath | None = None

    def __post_init__(self) -> None:
        for text in filter(None, (self.lock, self.install)):
            path = PurePosixPath(text)
            if path.is_absolute() or ".." in path.parts or not text.isprintable():
                raise ValueError(f"{text!r} is outside the submission; give a path below its folder")
        if self.image is None and self.install is None:
            raise ValueError("neither image nor install is given; give the container image by digest, or an install script")
        if self.image is not None and not re.search(r"@sha256:[0-9a-f]{64}$", self.image):
            raise ValueError("the image has no digest, so it can change; write it as name@sha256:<64 hex digits>")


class Declaration(Checked, frozen=True, kw_only=True):
    """A vendor's submission. `sparsity` is `none`, `2:4` (n of m kept), `32x` (1 of 32) or `unstructured`; precisions are
    what was asked for."""

    vendor: Word
    device: Word
    devices_per_run: Annotated[int, Meta(ge=1)] = 1
    suites: Annotated[tuple[Literal["general", "llm", "micro", "training"], ...], Meta(min_length=1)]
    precisions: Annotated[tuple[Word, ...], Meta(min_length=1)]
    sparsity: Annotated[str, Meta(pattern=r"^(none|unstructured|\d+:[1-9]\d*|[1-9]\d*x)\Z")]
    environment: Environment
    contact: str = ""
    notes: str = ""


def read_declaration(folder: Path) -> Declaration:
    """Raises UserError where the folder is none or the file is wrong."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "give the folder with submission.yaml and runs/")
    if not (folder / NAME).exists():
        raise UserError(f"{folder} has no {NAME}", "write one; docs/submit.md shows it")
    if not (folder / NAME).is_file():
        raise UserError(f"{folder / NAME} is not a regular file", "write one; docs/submit.md shows it")
    return checked_yaml.load(folder / NAME, Declaration)
