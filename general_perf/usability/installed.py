"""What it takes to have a backend and to write one: installed size, packages, lines of its adapter. All measured here."""

from __future__ import annotations

import importlib.metadata
import inspect
import io
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from general_perf.backends.registry import backend


def measure(name: str) -> dict[str, Any]:
    """`packages` and `install_bytes` of the backend's runtime with everything it requires, `adapter_lines` of its class's file."""
    made = backend(name)
    wanted = made.describe().distributions
    packages = closure(wanted)
    return {
        "distributions": list(wanted),
        "packages": len(packages),
        "install_bytes": sum(installed_bytes(each) for each in packages),
        "adapter_lines": code_lines(Path(inspect.getfile(type(made)))),
        "versions": {package: str(version) for package, version in made.describe().versions.items()},
    }


def closure(names: Iterable[str]) -> set[str]:
    """The installed distributions that `names` need, themselves included, by normalised name; extras left out."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    seen: set[str] = set()
    todo = [canonicalize_name(name) for name in names]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        seen.add(name)
        wanted = [Requirement(text) for text in requires]
        todo += [canonicalize_name(each.name) for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return seen


def installed_bytes(name: str) -> int:
    """Bytes of a distribution's files on disk, compiled Python left out (it comes with use)."""
    files = importlib.metadata.files(name) or []
    paths = [Path(str(each.locate())) for each in files if not str(each).endswith(".pyc")]
    return sum(path.stat().st_size for path in paths if path.is_file())


def code_lines(path: Path) -> int:
    """Lines with code on them: no blank ones, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING)
    starts_line = True
    for token in tokenize.tokenize(io.BytesIO(text.encode()).readline):
        if token.type in ignored:
            starts_line = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT) or (
                starts_line and token.type != tokenize.COMMENT
            )
            continue
        if token.type == tokenize.STRING and starts_line:
            starts_line = False
            continue
        starts_line = False
        lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)
