"""Plain data (of a file, of run.json, of an option) that must fit a msgspec struct, and one clear line when it does not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from bytemlperf.errors import UserError, nearest

MAX_ECHO_CHARS = 60
"""How much of a wrong value an error repeats."""

Location = tuple[int | str, ...]
Place = Callable[[Location], str]
StructT = TypeVar("StructT", bound=msgspec.Struct)


_MESSAGE = re.compile(r"(.*?)(?: - at `(key` in `)?\$(.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_NAMES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list", "object": "a mapping"}


class Checked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file's structs have in common: strict, so that `true` is no 1; frozen, so that what ran is what was read.

    A `__post_init__` raises ValueError("cause; fix") where fields don't go together."""


def check(data: Any, struct: type[StructT], place: Place, *, strict: bool = True) -> StructT:
    """Convert `data`; where it isn't `strict` a number may be text. `place` turns a location into the words an error starts with."""
    try:
        return msgspec.convert(data, struct, strict=strict)
    except msgspec.ValidationError as error:
        raise _explain(str(error), data, struct, place) from None


def plain(struct: msgspec.Struct) -> dict[str, Any]:
    """The struct as JSON has it."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(struct))
    return fields


def _explain(text: str, data: Any, struct: type[msgspec.Struct], place: Place) -> UserError:
    """One line for what is wrong."""
    parts = _MESSAGE.fullmatch(text)
    assert parts is not None
    what, of_a_key, path = parts.groups()
    location, value, annotation = _at(path or "", data, struct)
    key, name = ".".join(map(str, location)), what.partition("`")[2].partition("`")[0]
    structs, here = list(_structs(annotation)), place(location)
    if of_a_key:
        wrong = next(item for item in value if not _fits(item, _of_dict(annotation)[0]))
        words = _words(_of_dict(annotation)[0])
        return UserError(f"{here}: {echo(wrong)} is not a key of {key}", nearest(wrong, words) if words else _kind(what))
    if what.startswith("Object contains unknown field"):
        of = f"of {key}" if key else "here"
        return UserError(f"{place((*location, name))}: {echo(name)} is not a key {of}", nearest(name, _keys(_chosen(structs, value))))
    if what.startswith("Object missing required field"):
        tags = _tags(structs, name)
        near = difflib.get_close_matches(name, map(str, value), n=1) if tags else []
        fix = f"rename '{near[0]}' to '{name}'" if near else f"add {name}" + (f": one of {', '.join(tags)}" if tags else "")
        return UserError(f"{here}: {key + '.' if key else ''}{name} is missing", fix)
    if what.startswith("Invalid "):
        fix = nearest(value, _tags(structs, str(location[-1])) or _words(annotation))
        return UserError(f"{here}: {key} can't be {echo(value)}", fix + (", or a number" if float in _parts(annotation) else ""))
    if what.startswith("Expected "):
        return UserError(f"{here}: {key or 'the file'} can't be {echo(value)}", _kind(what))
    cause, _, fix = what.partition("; ")
    return UserError(f"{here}: {key + ': ' if key else ''}{cause}", fix or "see docs/scenarios.md")


def _kind(what: str) -> str:
    """What msgspec expected, as something to do."""
    kind = what.removeprefix("Expected ").partition(", got ")[0]
    return "give " + re.sub(r"`([^`]*)`", lambda types: " or ".join(_NAMES.get(name, name) for name in types[1].split(" | ")), kind)


def _at(path: str, data: Any, annotation: Any) -> tuple[Location, Any, Any]:
    """Where msgspec's path leads: keys and places in lists, the value there and its type (its union's, where it is a tag)."""
    location: list[int | str] = []
    for name, item in _STEP.findall(path):
        key: int | str = name or item
        if item == "...":
            annotation = _of_dict(annotation)[1]
            key = next(name for name, value in data.items() if not _fits(value, annotation))
        elif item:
            key = int(item)
        else:
            fields = (field for struct in _chosen(list(_structs(annotation)), data) for field in msgspec.structs.fields(struct))
            annotation = next((field.type for field in fields if field.name == name), annotation)
        location.append(key)
        data = data[key]
    return tuple(location), data, annotation


def _fits(value: Any, annotation: Any) -> bool:
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        return False
    return True


def _parts(annotation: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


def _structs(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    return (part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, msgspec.Struct))


def _words(annotation: Any) -> list[str]:
    return [str(word) for part in _parts(annotation) if get_origin(part) is Literal for word in get_args(part)]


def _of_dict(annotation: Any) -> tuple[Any, ...]:
    """Types of the keys and values of the first dict in a type."""
    return next(get_args(part) for part in _parts(annotation) if get_origin(part) is dict)


def _chosen(structs: list[type[msgspec.Struct]], value: Any) -> list[type[msgspec.Struct]]:
    """The struct of a union that the value's tag names; all where it names none."""
    configs = ((struct, struct.__struct_config__) for struct in structs)
    return [struct for struct, config in configs if config.tag_field and value.get(config.tag_field) == config.tag] or structs


def _tags(structs: list[type[msgspec.Struct]], field: str) -> list[str]:
    return [str(struct.__struct_config__.tag) for struct in structs if struct.__struct_config__.tag_field == field]


def _keys(structs: list[type[msgspec.Struct]]) -> set[str]:
    tags = {tag for struct in structs if (tag := struct.__struct_config__.tag_field)}
    return tags.union(*(struct.__struct_fields__ for struct in structs))


def echo(value: object) -> str:
    """`value` in quotes, without control characters, cut to a length that fits a line."""
    text = repr(value) if isinstance(value, str) else f"'{value!r}'"
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= MAX_ECHO_CHARS else f"{text[:MAX_ECHO_CHARS]}...'"
