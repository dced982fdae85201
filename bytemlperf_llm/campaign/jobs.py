"""A campaign's runs one by one: what each is called, its flags, and the order that they are done in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import asdict, replace

from bytemlperf import checked_yaml
from bytemlperf.arrivals.seeded import shuffled, stream
from bytemlperf.checked import Location, Place
from bytemlperf.command.flags import fields_of
from bytemlperf.errors import UserError
from bytemlperf_llm.campaign.file import Campaign, anchored, capacity_flags, check_campaign, scenario_label, setting_flags
from bytemlperf_llm.campaign.order import Order
from bytemlperf_llm.campaign.records import CAPACITY_LOAD, Key
from bytemlperf_llm.capacity.flags import CAPACITY_FLAGS, CapacityFlags
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.sweep.axes import AUTO_LEVEL, Level

OWN_LOAD = "own load"


def load(path: Path) -> Campaign:
    """Read a campaign, and check it down to the plan of every run. Raises UserError that names file, line and key."""

    def checked(campaign: Campaign, place: Place) -> Campaign:
        check_campaign(campaign, place)
        campaign = anchored(campaign, path.parent)
        check_plans(campaign, place)
        return campaign

    return checked_yaml.load(path, Campaign, then=checked)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run: an engine's place in the campaign, a scenario's, a load and a repeat, from 1. `rate` is as `--request-rate` has it, with
    `sessions` that of sessions; `capacity` is a search for the highest rate."""

    engine: int = 0
    scenario: int = 0
    rate: float | Literal["auto", "inf"] | None = None
    concurrency: int | None = None
    sessions: bool = False
    capacity: bool = False
    repeat: int = 1

    @property
    def load(self) -> str:
        if self.capacity:
            return CAPACITY_LOAD
        if isinstance(self.rate, str):
            return {"auto": "rate auto", "inf": "all at once"}[self.rate]
        level = Level(rate_rps=self.rate, concurrency=self.concurrency, sessions=self.sessions)
        return OWN_LOAD if level == AUTO_LEVEL else str(level)

    def key(self, campaign: Campaign) -> Key:
        return campaign.engines[self.engine].name, scenario_label(campaign.scenarios[self.scenario]), self.load, self.repeat

    def name(self, campaign: Campaign) -> str:
        """What tells it from the campaign's others."""
        words = self.key(campaign)[:3]
        return " · ".join([*words, f"{self.repeat} of {campaign.repeats}"] if campaign.repeats > 1 else words)


def jobs_of(campaign: Campaign) -> list[Job]:
    """All, in their order. The stated one goes through all engines before it goes on to the next load, the next scenario, the next
    repeat, so that a machine which grows slower favours none; the shuffled one is drawn with the campaign's seed."""
    jobs = stated(campaign)
    return shuffled(jobs, stream(campaign.seed, "campaign order")) if campaign.order == "shuffled" else jobs


def stated(campaign: Campaign) -> list[Job]:
    loads = [_loads(campaign, scenario) for scenario in range(len(campaign.scenarios))]
    return [
        replace(load, engine=engine, repeat=repeat)
        for repeat in range(1, campaign.repeats + 1)
        for of_scenario in loads
        for load in of_scenario
        for engine in range(len(campaign.engines))
    ]


def _loads(campaign: Campaign, scenario: int) -> list[Job]:
    """One run of each load under a scenario."""
    sessions = bool(campaign.rates) and _has_sessions(campaign, scenario)
    loads = [Job(scenario=scenario, rate=rate, sessions=sessions) for rate in campaign.rates or ()]
    loads += [Job(scenario=scenario, concurrency=streams) for streams in campaign.concurrency or ()]
    loads += [Job(scenario=scenario, capacity=True)] if campaign.capacity is not None else []
    return loads or [Job(scenario=scenario)]


def _has_sessions(campaign: Campaign, scenario: int) -> bool:
    """Whether rates are of sessions there. What can't be resolved has none: `check_plans` says why."""
    with suppress(UserError):
        return order_of(campaign, Job(scenario=scenario)).plan().load.scenario.prompts.sessions is not None
    return False


def flags_of(campaign: Campaign, job: Job, rate: float | None = None) -> Flags:
    """The run's command line; `rate` is what `auto` was found to be. Repeats have seeds of their own, the same for every engine."""
    entry = campaign.engines[job.engine]
    first = campaign.capacity or {} if job.capacity else {}
    chosen, streams = first.get("request_rate", rate or job.rate), first.get("max_concurrency", job.concurrency)
    load: dict[str, Any] = {} if chosen is None else {"request_rate": str(chosen).removesuffix(".0")}
    load |= {} if streams is None else {"max_concurrency": streams}
    options = {key: str(value).lower() if isinstance(value, bool) else value for key, value in entry.engine_options.items()}
    given = asdict(entry) | {
        "engine": entry.engine_name,
        "engine_options": tuple(f"{key}={value}" for key, value in options.items()),
        "api_key_file": None if entry.api_key_file is None else Path(entry.api_key_file),
    }
    given["device"] = given.pop("card")
    del given["name"]
    scenario = campaign.scenarios[job.scenario]
    label = "-".join([entry.name, scenario_label(scenario), job.load.replace("/s", "").replace(" ", "-")])
    more = {"scenario": scenario, "seed": campaign.seed + job.repeat - 1, "label": label, "quiet": True}
    return Flags(**given | setting_flags(campaign) | load | more)


def order_of(campaign: Campaign, job: Job, rate: float | None = None) -> Order:
    flags = flags_of(campaign, job, rate).recorded()
    if not job.capacity:
        return Order(flags=flags, concurrency=job.concurrency)
    asked = capacity_flags(campaign.capacity or {}).recorded()
    return Order(flags={name: flags[name] for name in CAPACITY_FLAGS}, capacity=asked)


def check_plans(campaign: Campaign, place: Place) -> None:
    """Resolve the plan of every load of every engine under every scenario. Raises UserError that names where in the file the fault is."""
    for job in stated(campaign):
        if job.repeat == 1:
            try:
                order_of(campaign, job).plan()
            except UserError as error:
                location = _fault(campaign, job, error)
                raise UserError(f"{place(location)}: {'.'.join(map(str, location))}: {error.cause}", error.fix) from None


def _fault(campaign: Campaign, job: Job, error: UserError) -> Location:
    """The key of the capacity, the engine or the setting whose flag or value an error names; else the engine, or the scenario of the
    first."""
    words = error.cause.replace(":", " ").replace(",", " ").split()
    flags = {field.name: field.flag for part in (Flags, CapacityFlags) for field in fields_of(part)}
    places: list[tuple[Location, Mapping[str, Any]]] = [
        (("capacity",), campaign.capacity or {} if job.capacity else {}),
        (("engines", job.engine), asdict(campaign.engines[job.engine])),
        (("settings",), campaign.settings),
    ]
    keys = [(*location, name) for location, values in places for name, value in values.items() if value and flags.get(name) in words]
    keys += [(*location, name) for location, values in places for name, value in values.items() if f"'{value}'" in words and name != "name"]
    keys += [("capacity",)] if job.capacity else []
    return (keys or [("engines", job.engine) if job.engine else ("scenarios", job.scenario)])[0]
