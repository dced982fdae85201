"""A campaign as its file has it: engines × scenarios × loads × repeats. docs/campaigns.md has every key.

Everything is checked before anything starts, down to the plan of every run; what is wrong is one line with file, line and key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, defstruct, field
from msgspec.structs import replace

from bytemlperf.checked import Checked, Place, check, echo
from bytemlperf.command.flags import Field, fields_of
from bytemlperf.errors import UserError, nearest
from bytemlperf.extensions import ENGINES
from bytemlperf.runs.conditions import parse
from bytemlperf_llm.capacity.flags import CapacityFlags
from bytemlperf_llm.plan.flags import Exports, Flags, Limits, Load, Prompts
from bytemlperf_llm.plan.scenario import Rate, Seconds

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
Option = str | int | float | bool
NOT_SETTINGS = ("scenario", "request_rate", "seed", "ray")
"""Flags of a load that are a campaign's own keys, or need more than this machine."""


class EngineEntry(Checked, frozen=True, kw_only=True):
    """An engine or a server under a `name` of its own. `engine` is that name where it isn't given, `openai` where there is an address."""

    name: Name
    engine: str | None = None
    model: str | None = None
    engine_options: dict[str, Option] = field(default_factory=dict)
    base_url: str | None = None
    endpoint: str | None = None
    extra_body: str | None = None
    insecure: bool = False
    api_key_file: str | None = None
    ready_check_timeout_s: Annotated[float, Meta(ge=0)] = 0.0
    card: str | None = None

    @property
    def engine_name(self) -> str:
        """As `bmp-llm engines` lists it."""
        return self.engine or ("openai" if self.base_url is not None else self.name)


class Campaign(Checked, frozen=True, kw_only=True):
    """A whole file. Without `rates`, `concurrency` and `capacity` each scenario's own load holds. `settings` are flags of serve-bench,
    `capacity` those of that command, by field."""

    name: Name
    description: Annotated[str, Meta(max_length=200, pattern=r"^[^\r\n]*\Z")] = ""
    engines: Annotated[tuple[EngineEntry, ...], Meta(min_length=1)]
    scenarios: Annotated[tuple[str, ...], Meta(min_length=1)]
    rates: Annotated[tuple[Rate | Literal["auto", "inf"], ...], Meta(min_length=1)] | None = None
    concurrency: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1)] | None = None
    capacity: dict[str, Any] | None = None
    repeats: Annotated[int, Meta(ge=1, le=1000)] = 1
    order: Literal["stated", "shuffled"] = "stated"
    seed: int = 0
    cool_down_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    time_limit_s: Seconds = 7200.0
    same_schedule: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    fail_if: tuple[str, ...] = ()


def check_campaign(campaign: Campaign, place: Place) -> None:
    """What the types don't say: names that are there once, engines, settings and conditions that exist. Raises UserError."""
    for key, names in (
        ("engines", [entry.name for entry in campaign.engines]),
        ("scenarios", [scenario_label(name) for name in campaign.scenarios]),
        ("rates", list(campaign.rates or ())),
        ("concurrency", list(campaign.concurrency or ())),
    ):
        _refuse_twice(key, names, place)
    for number, entry in enumerate(campaign.engines):
        if entry.engine_name not in ENGINES.all():
            location = ("engines", number, "engine" if entry.engine else "name")
            raise UserError(
                f"{place(location)}: {'.'.join(map(str, location))}: there is no engine {echo(entry.engine_name)}",
                nearest(entry.engine_name, ENGINES.all()),
            )
    check(campaign.settings, SETTINGS, lambda location: place(("settings", *location)))
    check(campaign.capacity or {}, CAPACITY, lambda location: place(("capacity", *location)))
    for number, text in enumerate(campaign.fail_if):
        try:
            parse(text)
        except UserError as error:
            raise UserError(f"{place(('fail_if', number))}: fail_if: {error.cause.removeprefix('--fail-if ')}", error.fix) from None


def _refuse_twice(key: str, names: list[Any], place: Place) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            line = place((key, names.index(name))).rpartition(":")[2]
            first = f" (first in line {line})" if line.isdigit() else ""
            raise UserError(f"{place((key, number))}: {key}: {echo(name)} is there twice{first}", "remove or rename one of them")


def scenario_label(name: str) -> str:
    """What a scenario of a campaign is called: its name, or that of its file."""
    return Path(name).stem if name.endswith((".yaml", ".yml")) else name


# -- settings ------------------------------------------------------------------------------


def _setting(flag: Field) -> tuple[str, Any, None]:
    """A flag as a key of a file: its type with its limits, null where it isn't given."""
    option = flag.option
    limits: dict[str, Any] = {"ge": option.least, "gt": option.above, "le": option.most}
    bounded = Meta(**{name: limit for name, limit in limits.items() if limit is not None and math.isfinite(limit)})
    kind: Any = Annotated[flag.kind, bounded] if flag.kind in (int, float) else str if flag.kind is Path else flag.kind
    several: Any = GenericAlias(tuple, (kind, ...)) if flag.container is tuple else kind
    return flag.name, several | None, None


def _setting_fields() -> Iterable[Field]:
    return (flag for part in (Load, Prompts, Limits, Exports) for flag in fields_of(part) if flag.name not in NOT_SETTINGS)


def _keys(name: str, flags: Iterable[Field], *more: tuple[str, Any, None]) -> type[Struct]:
    return defstruct(name, [*map(_setting, flags), *more], bases=(Checked,), kw_only=True, frozen=True)


SETTINGS = _keys("Settings", _setting_fields())
FIRST_LOAD: dict[str, Any] = {"request_rate": Rate | Literal["auto"] | None, "max_concurrency": Annotated[int, Meta(ge=1)] | None}
"""Keys of a capacity that are no flags of the search, but of its first probe."""
CAPACITY = _keys(
    "Capacity",
    (flag for flag in fields_of(CapacityFlags) if flag.name != "resume"),
    *((name, kind, None) for name, kind in FIRST_LOAD.items()),
)


def setting_flags(campaign: Campaign) -> dict[str, Any]:
    """The settings as values of `Flags`."""
    kinds = {flag.name: flag.kind for flag in fields_of(Flags)}
    return {
        name: tuple(value) if isinstance(value, list) else Path(value) if kinds[name] is Path else value
        for name, value in campaign.settings.items()
        if value is not None
    }


def capacity_flags(keys: dict[str, Any]) -> CapacityFlags:
    """What is asked of the search. Raises UserError."""
    return CapacityFlags(**{name: value for name, value in keys.items() if value is not None and name not in FIRST_LOAD})


def anchored(campaign: Campaign, folder: Path) -> Campaign:
    """With its paths as they are from the campaign's own folder."""

    def absolute(name: str) -> str:
        return str((folder / Path(name).expanduser()).absolute())

    paths = {flag.name for flag in _setting_fields() if flag.kind is Path}
    return replace(
        campaign,
        scenarios=tuple(absolute(name) if scenario_label(name) != name or "/" in name else name for name in campaign.scenarios),
        settings={name: absolute(value) if name in paths and value is not None else value for name, value in campaign.settings.items()},
        engines=tuple(
            entry if entry.api_key_file is None else replace(entry, api_key_file=absolute(entry.api_key_file)) for entry in campaign.engines
        ),
    )
