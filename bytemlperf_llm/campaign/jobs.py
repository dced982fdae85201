"""A campaign's runs one by one: what each is called, its flags, and the order that they are done in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from bytemlperf import checked_yaml
from bytemlperf.arrivals.seeded import shuffled, stream
from bytemlperf.checked import Location, Place
from bytemlperf.command.flags import fields_of
from bytemlperf.errors import UserError
from bytemlperf_llm.campaign.file import Campaign, anchored, check_campaign, scenario_label, setting_flags
from bytemlperf_llm.campaign.records import Key
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
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
    """One run: an engine's place in the campaign, a scenario's, a load and a repeat, from 1. `rate` is as `--request-rate` has it."""

    engine: int
    scenario: int
    rate: float | Literal["auto", "inf"] | None = None
    concurrency: int | None = None
    repeat: int = 1

    @property
    def load(self) -> str:
        """In words."""
        if isinstance(self.rate, str):
            return {"auto": "rate auto", "inf": "all at once"}[self.rate]
        level = Level(rate_rps=self.rate, concurrency=self.concurrency)
        return OWN_LOAD if level == AUTO_LEVEL else str(level)

    def key(self, campaign: Campaign) -> Key:
        """As `JobRecord.key`."""
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
    """All, in the stated order."""
    return [
        Job(engine=engine, scenario=scenario, rate=rate, concurrency=concurrency, repeat=repeat)
        for repeat in range(1, campaign.repeats + 1)
        for scenario in range(len(campaign.scenarios))
        for rate, concurrency in _loads(campaign)
        for engine in range(len(campaign.engines))
    ]


def _loads(campaign: Campaign) -> list[tuple[float | Literal["auto", "inf"] | None, int | None]]:
    loads: list[tuple[float | Literal["auto", "inf"] | None, int | None]] = [(rate, None) for rate in campaign.rates or ()]
    loads += [(None, streams) for streams in campaign.concurrency or ()]
    return loads or [(None, None)]


def flags_of(campaign: Campaign, job: Job, rate: float | None = None) -> Flags:
    """The run's command line; `rate` is what `auto` was found to be. Repeats have seeds of their own, the same for every engine."""
    entry = campaign.engines[job.engine]
    load: dict[str, Any] = {}
    if rate is not None or job.rate is not None:
        load["request_rate"] = str(rate or job.rate).removesuffix(".0")
    if job.concurrency is not None:
        load["max_concurrency"] = job.concurrency
    return Flags(
        engine=entry.engine_name,
        model=entry.model,
        engine_options=tuple(f"{key}={_text(value)}" for key, value in entry.engine_options.items()),
        base_url=entry.base_url,
        endpoint=entry.endpoint,
        extra_body=entry.extra_body,
        insecure=entry.insecure,
        api_key_file=None if entry.api_key_file is None else Path(entry.api_key_file),
        ready_check_timeout_s=entry.ready_check_timeout_s,
        device=entry.device,
        scenario=campaign.scenarios[job.scenario],
        seed=campaign.seed + job.repeat - 1,
        label="-".join([entry.name, scenario_label(campaign.scenarios[job.scenario]), job.load.replace("/s", "").replace(" ", "-")]),
        quiet=True,
        **setting_flags(campaign) | load,
    )


def _text(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_plans(campaign: Campaign, place: Place) -> None:
    """Resolve the plan of every engine under every scenario. Raises UserError that names where in the file the fault is."""
    rate, concurrency = _loads(campaign)[0]
    for engine in range(len(campaign.engines)):
        for scenario in range(len(campaign.scenarios)):
            try:
                resolve(flags_of(campaign, Job(engine=engine, scenario=scenario, rate=rate, concurrency=concurrency)))
            except UserError as error:
                location = _fault(campaign, engine, error) or (("engines", engine) if engine else ("scenarios", scenario))
                raise UserError(f"{place(location)}: {'.'.join(map(str, location))}: {error.cause}", error.fix) from None


def _fault(campaign: Campaign, engine: int, error: UserError) -> Location | None:
    """The key of the engine or the setting that an error is about."""
    words = error.cause.split()
    named = [field.name for field in fields_of(Flags) if field.flag in words]
    of_engine = (("engines", engine, name) for name in named if getattr(campaign.engines[engine], name, None))
    return next(iter((*of_engine, *(("settings", name) for name in named if name in campaign.settings))), None)
