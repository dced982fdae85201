"""`bmp-llm shootout`: a campaign of one load without a file, every engine on the same schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bytemlperf.checked import Location, check
from bytemlperf.command.flags import fields_of
from bytemlperf.errors import UserError
from bytemlperf_llm.campaign.file import NOT_SETTINGS, Campaign, anchored, check_campaign
from bytemlperf_llm.campaign.flags import SETTINGS, ShootoutFlags
from bytemlperf_llm.campaign.jobs import check_plans
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import parse_rate

FLAGS = {"engines": "--engines", "scenarios": "--scenario", "rates": "--request-rate", "seed": "--seed"}


def shootout_campaign(asked: ShootoutFlags, flags: Flags) -> Campaign:
    """Checked as a file is. Raises UserError."""
    given = {
        field.name: getattr(flags, field.name) for field in fields_of(Flags) if field.name in SETTINGS and field.name not in NOT_SETTINGS
    }
    defaults = Flags()
    content: dict[str, Any] = {
        "name": "shootout",
        "engines": [_entry(word.strip(), asked.model) for word in asked.engines.split(",")],
        "scenarios": [flags.scenario],
        "repeats": asked.repeats,
        "order": asked.order,
        "seed": flags.seed,
        "cool_down_s": asked.cool_down_s,
        "settings": {name: _plain(value) for name, value in given.items() if value != getattr(defaults, name)},
    }
    if flags.request_rate is not None:
        content["rates"] = [flags.request_rate if flags.request_rate in ("auto", "inf") else parse_rate(flags.request_rate)]
    elif flags.max_concurrency is not None and flags.dataset_name is None:
        content["concurrency"] = [content["settings"].pop("max_concurrency")]
    campaign = check(content, Campaign, _place)
    check_campaign(campaign, _place)
    campaign = anchored(campaign, Path())
    check_plans(campaign, _place)
    return campaign


def _place(location: Location) -> str:
    return FLAGS.get(str(location[0]) if location else "", "shootout")


def _entry(word: str, model: str | None) -> dict[str, Any]:
    """Raises UserError for an empty one."""
    name, equals, address = word.partition("=")
    if not name or (equals and not address):
        raise UserError(f"--engines has {word!r}", "give names between commas, such as vllm,openvino, and servers as NAME=URL")
    return {"name": name, "model": model} | ({"base_url": address} if equals else {})


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
