"""`bmp-llm engine new`: a package with a working engine, to be changed from there."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from bytemlperf.errors import UserError
from bytemlperf.extensions import ENGINES

NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


def new_engine(name: str, into: Path) -> Path:
    """The folder `bmp-NAME` in `into`, written. Raises UserError for a name that can't be one, or is taken, and a folder that is there."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} can't be an engine's name", "give lower-case letters and digits, such as my-engine")
    if name in ENGINES.all():
        raise UserError(f"engine '{name}' is there already", "give another name (see bmp-llm engines)")
    folder, module = into / f"bmp-{name}", f"bmp_{name.replace('-', '_')}"
    words = {"name": name, "module": module, "cls": "".join(word.capitalize() for word in re.split("[_-]", name)) + "Engine"}
    names = {"pyproject.toml": "pyproject.toml", "engine.py": f"{module}.py", "test_engine.py": f"test_{module}.py"}
    try:
        folder.mkdir()
        for template, file in names.items():
            text = (files(__package__) / "template" / f"{template}.txt").read_text(encoding="utf-8")
            (folder / file).write_text(Template(text).substitute(words), encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write {folder}: {error.strerror}", "remove it, or give another name") from None
    return folder
