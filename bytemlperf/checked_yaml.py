"""A YAML file that must fit a msgspec struct, and one clear line when it does not.

The text is composed into nodes first, because nodes know their lines; the plain data is then
checked (`bytemlperf.checked`), and the place that an error names is looked up among the nodes. YAML is only ever
safe-loaded, a date stays text, a duplicate key is an error, and an unknown key or value comes with the nearest valid one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from bytemlperf.checked import Location, Place, StructT, check, echo
from bytemlperf.errors import UserError

MAX_FILE_BYTES = 1 << 20


def load(
    path: Path, struct: type[StructT], *, shown_as: str | None = None, then: Callable[[StructT, Place], StructT] | None = None
) -> StructT:
    """Read `path` into `struct`; `then` checks what its types don't say and completes it, and gets the place of a key in the file as
    text. Raises UserError that names file, line, key and nearest valid key."""
    name = shown_as or str(path)
    root = _compose(_read(path, name), name)

    def place(location: Location) -> str:
        return f"{name}:{_line(root, location)}"

    content = check(_construct(root, name), struct, place)
    return content if then is None else then(content, place)


def _read(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise UserError(
                f"{name} is larger than {MAX_FILE_BYTES} bytes", "give a scenario file; prompts belong in JSONL files beside it"
            )
        return raw.decode("utf-8")
    except OSError as error:
        raise UserError(f"{name} can't be read: {error.strerror}", "give the path of a readable YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None


class _Loader(yaml.SafeLoader):
    """Dates stay text: `2026-10` is as good a day as `2026-10-01`."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML has it
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _compose(text: str, name: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is None:
            raise UserError(f"{name} is empty", "write at least the keys that docs/scenarios.md calls required")
        _refuse_duplicates(root, name, set())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}:{line}: not valid YAML: {error.problem}", "fix the line") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {str(error).splitlines()[0]}", "fix the file") from None
    except RecursionError:
        raise UserError(f"{name} is nested too deep", "write plain keys and values") from None
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{name}:{root.start_mark.line + 1}: not a mapping", "write `key: value` lines")
    return root


def _construct(root: yaml.Node, name: str) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(root)  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}:{line}: {error.problem}", "use plain YAML values") from None
    except ValueError as error:
        raise UserError(f"{name}: not valid YAML: {error}", "quote the value if it is text") from None
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):  # what PyYAML makes of `!!bool x` or `!!timestamp x`
        raise UserError(f"{name}: not valid YAML: a value is not what its tag says", "leave out tags (!!int, !!bool, …)") from None
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def _refuse_duplicates(node: yaml.Node, name: str, seen: set[int]) -> None:
    """An alias may lead back to its own anchor, so every node is entered once."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_duplicates(child, name, seen)
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        text = str(key.value)
        if text in lines:
            raise UserError(f"{name}:{line}: the key {echo(text)} is given twice (first in line {lines[text]})", "remove one of them")
        lines[text] = line
        _refuse_duplicates(value, name, seen)


def _line(root: yaml.Node, location: Location) -> int:
    """The line of the innermost key of `location` that the file has."""
    node, line = root, root.start_mark.line
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    node, line = value, key.start_mark.line
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return int(line) + 1
