"""A YAML file that must fit a pydantic model, and one clear line when it does not.

The text is composed into nodes first, because nodes know their lines; the plain data is then
checked by the model, and the place pydantic names is looked up among the nodes. YAML is only ever
safe-loaded, a duplicate key is an error, and an unknown key or value comes with the nearest valid one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from bytemlperf.errors import UserError, nearest

MAX_FILE_BYTES = 1 << 20
MAX_ECHO_CHARS = 60
"""How much of a wrong value an error repeats."""

Location = tuple[int | str, ...]
Place = Callable[[Location], str]
ModelT = TypeVar("ModelT", bound=BaseModel)


def load(path: Path, model: type[ModelT], *, shown_as: str | None = None) -> ModelT:
    """Read `path` into `model`. Raises UserError that names file, line, key and nearest valid key."""
    name = shown_as or str(path)
    root = _compose(_read(path, name), name)

    def place(location: Location) -> str:
        return f"{name}:{_line(root, location)}"

    return check(_construct(root, name), model, place)


def check(data: Any, model: type[ModelT], place: Place) -> ModelT:
    """Validate `data`. `place` turns a location into the words an error starts with."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(error, model, place) from None


# --- the file ---------------------------------------------------------------------------------


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


def _compose(text: str, name: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
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
    loader = yaml.SafeLoader("")
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
            raise UserError(f"{name}:{line}: the key {_echo(text)} is given twice (first in line {lines[text]})", "remove one of them")
        lines[text] = line
        _refuse_duplicates(value, name, seen)


def _line(root: yaml.Node, location: Location) -> int:
    """The line of the innermost key of `location` that the file has. Union tags, which pydantic
    puts among the keys, are not in the file and are passed over."""
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


# --- what pydantic found ----------------------------------------------------------------------


def _explain(error: ValidationError, model: type[BaseModel], place: Place) -> UserError:
    """One line for the first error. An unknown key comes first: it is what explains a missing one."""
    errors = error.errors(include_url=False)
    found: Mapping[str, Any] = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    location: Location = found["loc"]
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    where, key = place(location), _dotted(model, location)
    if kind == "extra_forbidden":
        parent = _dotted(model, location[:-1])
        of = f"of {parent}" if parent else "here"
        return UserError(f"{where}: {_echo(location[-1])} is not a key {of}", nearest(location[-1], _keys(model, location[:-1])))
    if kind == "missing":
        return UserError(f"{where}: {key} is missing", f"add {location[-1]}")
    if kind == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        near = difflib.get_close_matches(tag, [str(each) for each in value] if isinstance(value, Mapping) else [], n=1)
        tags = ", ".join(_tags(model, location, tag))
        return UserError(f"{where}: {key}.{tag} is missing", f"rename '{near[0]}' to '{tag}'" if near else f"add {tag}: one of {tags}")
    if kind == "union_tag_invalid":
        return UserError(f"{where}: {key} can't be {_echo(context['tag'])}", nearest(context["tag"], _quoted(context["expected_tags"])))
    if kind == "literal_error":
        return UserError(f"{where}: {key} can't be {_echo(value)}", nearest(value, _quoted(context["expected"])))
    if kind == "value_error":
        cause, _, fix = str(context["error"]).partition("; ")
        return UserError(f"{where}: {key + ': ' if key else ''}{cause}", fix or "see docs/scenarios.md")
    wanted = str(found["msg"]).removeprefix("Input should be ")
    return UserError(f"{where}: {key} can't be {_echo(value)}", f"give {wanted}")


def _echo(value: object) -> str:
    """`value` in quotes, without control characters, cut to a length that fits a line."""
    text = repr(value) if isinstance(value, str) else f"'{value!r}'"
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= MAX_ECHO_CHARS else f"{text[:MAX_ECHO_CHARS]}...'"


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _keys(model: type[BaseModel], location: Location) -> set[str]:
    return {key for each in _walk(model, location)[0] for key in each.model_fields}


def _tags(model: type[BaseModel], location: Location, tag: str) -> list[str]:
    return [str(value) for each in _walk(model, location)[0] for value in get_args(each.model_fields[tag].annotation)]


def _dotted(model: type[BaseModel], location: Location) -> str:
    return ".".join(str(part) for part in _walk(model, location)[1])


def _walk(model: type[BaseModel], location: Location) -> tuple[list[type[BaseModel]], Location]:
    """The models that may stand at `location`, and the location without pydantic's union tags."""
    models: list[type[BaseModel]] = [model]
    keys: list[int | str] = []
    for depth, part in enumerate(location):
        tagged = [each for each in models if part in _literals(each)] if len(models) > 1 else []
        if tagged:
            models = tagged
            continue
        fields = [each.model_fields[part] for each in models if isinstance(part, str) and part in each.model_fields]
        if fields or isinstance(part, int) or depth == len(location) - 1:
            keys.append(part)
        models = [found for field in fields for found in _models_in(field.annotation)]
    return models, tuple(keys)


def _literals(model: type[BaseModel]) -> set[object]:
    return {
        value for field in model.model_fields.values() if get_origin(field.annotation) is Literal for value in get_args(field.annotation)
    }


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
