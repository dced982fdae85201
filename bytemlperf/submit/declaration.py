"""submission.yaml: what a submitter declares, checked at the edge."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from bytemlperf import checked_yaml
from bytemlperf.errors import UserError

NAME = "submission.yaml"
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def _below(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not text.isprintable():
        raise ValueError(f"{text!r} is outside the submission; give a path below its folder")
    return text


RelativePath = Annotated[str, StringConstraints(min_length=1), AfterValidator(_below)]
SPARSITY = r"^(none|unstructured|\d+:[1-9]\d*|[1-9]\d*x)$"


class Environment(BaseModel):
    """How someone else gets the same software: a lock and an image or an install script; paths are below the folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lock: RelativePath
    image: str | None = None
    install: RelativePath | None = None

    @model_validator(mode="after")
    def _made_again(self) -> Self:
        if self.image is None and self.install is None:
            raise ValueError("neither image nor install is given; give the container image by digest, or an install script")
        if self.image is not None and not re.search(r"@sha256:[0-9a-f]{64}$", self.image):
            raise ValueError("the image has no digest, so it can change; write it as name@sha256:<64 hex digits>")
        return self


class Declaration(BaseModel):
    """A vendor's submission. `sparsity` is `none`, `2:4` (n of m kept), `32x` (1 of 32) or `unstructured`; precisions are
    what was asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vendor: Word
    device: Word
    devices_per_run: int = Field(default=1, ge=1)
    suites: tuple[Literal["general", "llm", "micro", "training"], ...] = Field(min_length=1)
    precisions: tuple[Word, ...] = Field(min_length=1)
    sparsity: str = Field(pattern=SPARSITY)
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
