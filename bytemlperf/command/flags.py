"""Options declared once: the annotated fields of a class make a command's options, and the command gets one object.

    class Load(Options, panel="Load"):
        duration_s: Annotated[float | None, Option("Length of the schedule, in seconds.", above=0)] = None

    @app.command()
    @with_flags
    def bench(load: Load) -> None: ...

A field's name is its flag's (`duration_s` is --duration: a unit is not part of a flag), its type says how often a flag is given
(`tuple[str, ...]`: repeatable; `dict[str, int]`: repeatable NAME=VALUE) and what it may be (`Literal`), its default ends the help.
Values that are out of range are refused wherever an object is made: by a command line, or from a run folder.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar, dataclass_transform, get_args, get_origin

from bytemlperf.errors import UserError, nearest
from bytemlperf.extras import require
from bytemlperf.runs.conditions import of_one_run, parse
from bytemlperf.runs.names import RUNS_DIR, names_of_runs, run_named

if TYPE_CHECKING:
    import msgspec
    import typer

LARGEST_SIZE = (1 << 31) - 1
SIZE_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
SIZE_UNITS |= {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Option:
    """What a field's annotation says of its flag. A help that ends in ":" gets the choices of the field's Literal. `names` are
    separated by spaces. `sets` is the key that a given value sets, of what the flags are passed on to. Numbers are at least `least` or
    above `above`, at most `most` (math.inf: infinity is a value), and finite. `run`: paths are run folders, and may be runs' names.
    `several`: may be repeated, and the value is all of them with blanks between."""

    def __init__(
        self,
        help: str,
        names: str = "",
        sets: str = "",
        *,
        least: float | None = None,
        above: float | None = None,
        most: float | None = None,
        run: bool = False,
        several: bool = False,
    ) -> None:
        self.help, self.names, self.sets = help, names, sets
        self.least, self.above, self.most, self.run, self.several = least, above, most, run, several


class Argument(Option):
    """A positional one."""


class only:  # it reads as a word in an annotation
    """With a class of flags in a command's annotation: the fields that the command has. The others keep their defaults."""

    def __init__(self, *names: str) -> None:
        self.names = names


class Field(NamedTuple):
    """A flag as its class declares it. `kind` is the type of one value, `container` tuple, dict or None."""

    name: str
    option: Option
    panel: str
    kind: Any
    container: type | None
    optional: bool
    default: Any

    @property
    def flag(self) -> str:
        """As it is typed."""
        own = self.option.names.partition(" ")[0].partition("/")[0]
        return own if own.startswith("--") else "--" + self.name.removesuffix("_s").replace("_", "-")

    @property
    def choices(self) -> tuple[Any, ...]:
        """Of a Literal; else empty."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    def check(self, value: Any) -> None:
        """Raises UserError for a value out of range or not among the choices."""
        for each in value if self.container is tuple else value.values() if self.container is dict else [value]:
            if self.choices and each not in self.choices:
                raise UserError(f"{self.flag} {each!r} is unknown", nearest(each, self.choices))
            if isinstance(each, int | float) and not isinstance(each, bool):
                _check_number(self.flag, each, self.option)

    def parse(self, given: Any) -> Any:
        """The field's value from typer's. Raises UserError."""
        if self.option.run and given:
            given = [run_named(path) for path in given] if self.container else run_named(given)
        if self.option.several and given:
            return " ".join(given)
        if self.container is None and not self.option.several:
            return given
        if not given:
            return self.default
        if self.container is tuple:
            return tuple(given)
        return pairs(self.flag, given) if self.kind is str else sizes(self.flag, given)

    def parameter(self) -> inspect.Parameter:
        """For typer."""
        import typer

        kind: Any = str if self.choices or self.container is dict else self.kind
        repeated = self.container is not None or self.option.several
        annotation = list[kind] if repeated else kind
        default = None if repeated and self.default is not inspect.Parameter.empty else self.default
        if default is None:
            annotation = annotation | None
        more: dict[str, Any] = {"help": self._help(), "show_default": False}
        if self.option.run:
            more["autocompletion"] = names_of_runs
        if isinstance(self.option, Argument):
            info: Any = typer.Argument(**more)
        else:
            info = typer.Option(*self._names(), rich_help_panel=self.panel or None, **more)
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info])

    def _names(self) -> list[str]:
        names = self.option.names.split()
        if not any(name.startswith("--") for name in names):
            switch = self.kind is bool and (self.optional or self.default is True)
            names.insert(0, f"{self.flag}/--no-{self.flag[2:]}" if switch else self.flag)
        return names

    def _help(self) -> str:
        text, default = self.option.help, self.default
        first = default[0] if isinstance(default, tuple) and default else default
        if text.endswith(":") and self.choices:
            *listed, last = (f"{choice} (default)" if choice == first else str(choice) for choice in self.choices)
            return f"{text} {', '.join(listed)} or {last}{'; repeatable' if self.container else ''}."
        shown = default is not inspect.Parameter.empty and default is not None and default is not False and default not in ("", ())
        if not shown or self.container is dict or "default" in text.lower():
            return text
        return f"{text} Default: {_shown(default)}."


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return "yes" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _check_number(flag: str, value: float, option: Option) -> None:
    least, above, most = option.least, option.above, option.most
    text = f"{value:g}" if isinstance(value, float) else str(value)[:30]
    span = f" from {_plain(least)} to {_plain(most)}" if least is not None and most is not None else ""
    if least is not None and not value >= least:
        raise UserError(f"{flag} {text} is below {least:g}", f"give a number{span}" if span else f"give {least:g} or more")
    if above is not None and not value > above:
        raise UserError(f"{flag} {text} is not above {above:g}", f"give a number above {above:g}")
    if most is not None and value > most:
        raise UserError(f"{flag} {text} is too large", f"give a number{span or ' up to ' + _plain(most)}")
    if most is None and (least is not None or above is not None) and isinstance(value, float) and math.isinf(value):
        raise UserError(f"{flag} {text} is not finite", "give a number")


Part = TypeVar("Part", bound="Options")


NOTHING: Any = {}
"""The default of a flag that takes NAME=VALUE."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Options:
    """The base of a class of flags, which are its annotated fields: set by name, never changed. `panel` heads its own ones in the help.
    Raises UserError for a value out of range. (A dataclass would be compiled at every start, for longer than all else takes.)"""

    panel: ClassVar[str] = ""

    def __init_subclass__(cls, panel: str = "") -> None:
        cls.panel = panel

    def __init__(self, **values: Any) -> None:
        declared = _declared(type(self))
        if unknown := values.keys() - declared.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(unknown)}")
        self.__dict__.update({name: getattr(type(self), name) for name in declared if name not in values} | values)
        for field in fields_of(type(self)):
            if (value := self.__dict__[field.name]) is not None:
                field.check(value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is not to be changed")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and (type(self), self.__dict__) == (type(other), other.__dict__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def recorded(self) -> dict[str, Any]:
        """For run.json, by field. JSON has no infinity: `--burstiness inf` is the scenario's `constant`."""
        return {name: _in_json(value) for name, value in self.__dict__.items()}

    def words(self) -> list[str]:
        """The command line that gives these values."""
        words: list[str] = []
        for field in fields_of(type(self)):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.kind is bool:
                words.append(field.flag if value else f"--no-{field.flag[2:]}")
            else:
                given = value if field.container is tuple else [value]
                words += [word for each in given for word in (field.flag, str(each))]
        return words

    def settings(self, part: type[Options]) -> dict[str, tuple[str, Any]]:
        """(flag, value) by key, of those fields of `part` that set one and have another value than their default."""
        values = ((field, getattr(self, field.name)) for field in fields_of(part) if field.option.sets)
        return {field.option.sets: (field.flag, value) for field, value in values if value != field.default}

    def shared_with(self, struct: type[msgspec.Struct]) -> dict[str, Any]:
        """The values of fields that the struct has too."""
        return {name: getattr(self, name) for name in struct.__struct_fields__ if hasattr(self, name)}

    def part(self, kind: type[Part]) -> Part:
        """Its flags that are of this class, alone."""
        return kind(**{field.name: getattr(self, field.name) for field in fields_of(kind)})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From values as `recorded` has them. Raises msgspec.ValidationError for one of another type, TypeError for a name that is none."""
        import msgspec

        if unknown := values.keys() - _declared(cls).keys():
            raise TypeError(f"{cls.__name__} has no {', '.join(unknown)}")
        fields = [(name, hint, msgspec.field(default=getattr(cls, name, msgspec.NODEFAULT))) for name, (_, hint) in _declared(cls).items()]
        typed = msgspec.convert(values, msgspec.defstruct("Flags", fields, kw_only=True), dec_hook=lambda _, value: Path(value))
        return cls(**{name: getattr(typed, name) for name in values})

    def changed(self, **changes: Any) -> Self:
        """A copy with other values."""
        return type(self)(**(self.__dict__ | changes))


def _in_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


_FIELDS: dict[type[Options], tuple[Field, ...]] = {}


def fields_of(flags: type[Options]) -> tuple[Field, ...]:
    """In the order of the class's bases, each base's own fields together."""
    if flags not in _FIELDS:
        _FIELDS[flags] = tuple(_fields(flags))
    return _FIELDS[flags]


def _fields(flags: type[Options]) -> Iterator[Field]:
    for name, (base, hint) in _declared(flags).items():
        option = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Option)), None)
        if option is not None:
            yield Field(name, option, base.panel, *_kind(hint.__origin__), getattr(flags, name, inspect.Parameter.empty))


_DECLARED: dict[type[Options], dict[str, tuple[type[Options], Any]]] = {}


def _declared(flags: type[Options]) -> dict[str, tuple[type[Options], Any]]:
    """Where each field is declared first, in whose place and panel it stays, and its type as it is declared last."""
    if flags not in _DECLARED:
        bases = [base for base in flags.__mro__ if issubclass(base, Options) and base is not Options]
        hints = {base: inspect.get_annotations(base, eval_str=True) for base in bases}
        first = {name: base for base in bases for name in hints[base]}
        last = {name: hint for base in reversed(bases) for name, hint in hints[base].items()}
        _DECLARED[flags] = {name: (base, last[name]) for base in bases for name in hints[base] if first[name] is base}
    return _DECLARED[flags]


def _kind(hint: Any) -> tuple[Any, type | None, bool]:
    """(type of one value, tuple or dict where it may be repeated, whether None is a value)."""
    arguments = get_args(hint)
    if NoneType in arguments:
        kind, container, _ = _kind(next(each for each in arguments if each is not NoneType))
        return kind, container, True
    origin = get_origin(hint)
    if origin is tuple:
        return arguments[0], tuple, False
    return (arguments[1], dict, False) if origin is dict else (hint, None, False)


class with_flags:  # it reads as a decorator
    """`command` for typer: a parameter that is a class of flags becomes that class's options, one that an Option annotates its own. They
    are made when typer asks for the signature: a help that lists commands needs none."""

    def __init__(self, command: Callable[..., None]) -> None:
        self._command = command
        self.__name__, self.__doc__, self.__module__ = command.__name__, command.__doc__, command.__module__

    @cached_property
    def _made(self) -> tuple[list[inspect.Parameter], dict[str, tuple[type[Options], list[Field]]], dict[str, Field]]:
        """Parameters for typer; classes by parameter, with the fields that the command has; own fields by parameter."""
        hints = inspect.get_annotations(self._command, eval_str=True)
        classes: dict[str, tuple[type[Options], list[Field]]] = {}
        own: dict[str, Field] = {}
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(self._command).parameters.items():
            kind, notes = getattr(hints[name], "__origin__", hints[name]), getattr(hints[name], "__metadata__", ())
            if isinstance(kind, type) and issubclass(kind, Options):
                chosen = next((note.names for note in notes if isinstance(note, only)), None)
                classes[name] = kind, [field for field in fields_of(kind) if chosen is None or field.name in chosen]
                parameters += [field.parameter() for field in classes[name][1]]
            elif option := next((note for note in notes if isinstance(note, Option)), None):
                own[name] = Field(name, option, "", *_kind(kind), parameter.default)
                parameters.append(own[name].parameter())
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))
        return parameters, classes, own

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.Signature(self._made[0])

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {parameter.name: parameter.annotation for parameter in self._made[0]}

    def __call__(self, **given: Any) -> None:
        _, classes, own = self._made
        for name, field in own.items():
            given[name] = field.parse(given[name])
            if given[name] is not None:
                field.check(given[name])
        for name, (kind, fields) in classes.items():
            given[name] = kind(**{field.name: field.parse(given.pop(field.name)) for field in fields})
        self._command(**given)


def given_flags(context: typer.Context) -> set[str]:
    """Names of the fields that this command line gives."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


# -- values --------------------------------------------------------------------------------


def pairs(flag: str, texts: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE texts of a repeatable flag. Raises UserError for one that is none."""
    return dict(_pair(flag, text) for text in texts)


def _pair(flag: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{flag} {text!r} is not KEY=VALUE", f"give it as {flag} KEY=VALUE")
    return key, value


def sizes(flag: str, texts: Iterable[str]) -> dict[str, int]:
    """NAME=SIZE texts of a repeatable flag, each from 1. Raises UserError."""
    return {key: _size(flag, key, text) for key, text in pairs(flag, texts).items()}


def _size(flag: str, key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) <= LARGEST_SIZE:
        raise UserError(f"{flag} {key}={text[:30]}: the size is not a number from 1 to {LARGEST_SIZE}", f"write {flag} {key}=64")
    return int(text)


def parse_percent(flag: str, text: str) -> float:
    """The share that "5%" or "0.5 %" is. Raises UserError for anything else, and beyond 0 to 100 %."""
    number = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{1,9})?)\s*%\s*", text)
    if number is None or float(number[1]) > 100:
        raise UserError(f"{flag} {text!r} is not a percentage", f"write for example {flag} 1%")
    return float(number[1]) / 100


def parse_bytes(flag: str, text: str) -> int:
    """ "4GiB", "500 MB" or plain bytes. Raises UserError."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    size = int(float(match[1]) * SIZE_UNITS.get(match[2].upper(), 0)) if match else 0
    if not size:
        raise UserError(f"{flag} {text[:30]!r} is not a size", "give bytes, or a number with KiB, MiB, GiB, KB, MB or GB")
    return size


# -- what many commands have -----------------------------------------------------------------

RunFolder = Annotated[Path, Argument("A run: its folder, id, label, or latest, latest~1.", run=True)]
Device = Annotated[str, Option("Device: cpu (default), cuda or cuda:N.")]
Quiet = Annotated[bool, Option("Print only the run folder's path.", "--quiet -q")]
Json = Annotated[bool, Option("Print JSON.")]
CardFiles = Annotated[Path | None, Option("Your own spec cards and prices: a YAML file or a folder. Default: $BMP_CARDS.", "--cards")]


class RunOutput(Options, panel="Output"):
    """Where a run's folder goes, and how loudly."""

    runs_dir: Annotated[Path, Option("Directory for run folders.")] = RUNS_DIR
    label: Annotated[str | None, Option("Name of the run.")] = None
    perfetto: Annotated[bool, Option("Also write timeline.perfetto-trace, for ui.perfetto.dev.")] = False
    fail_if: Annotated[tuple[str, ...], Option("Fail (exit 1) if: 'ttft p95 > 500'; repeatable.")] = ()
    quiet: Quiet = False
    json: Json = False

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.perfetto:
            require("--perfetto", "perfetto", "perfetto")
        for text in self.fail_if:
            parse(text) if self.compares else of_one_run(text)

    compares = False
    """Whether --fail-if is of several runs, and judged with them."""


class MetricsOutput(Options, panel="Live metrics"):
    """Where a run's live metrics go."""

    prometheus_port: Annotated[int | None, Option("Serve metrics on this port during the run; 0: any free one.", least=0, most=65535)] = (
        None
    )
    prometheus_host: Annotated[str, Option("Address to serve metrics on.")] = "127.0.0.1"
    push_gateway: Annotated[str | None, Option("Push metrics to the Pushgateway at this address.")] = None
    otlp: Annotated[str | None, Option("Send metrics by OTLP/HTTP to this address.")] = None
    push_interval_s: Annotated[float, Option("Seconds between pushes.", least=1)] = 5.0
    dashboard: Annotated[bool, Option("Show the run's report live on a page on loopback.")] = False
    dashboard_port: Annotated[int | None, Option("Port of that page; implies --dashboard. Default: any free one.", least=0, most=65535)] = (
        None
    )
