"""What a server says of one request in the head of its response: durations in Server-Timing, and the id that it knows the request by.

Server-Timing (W3C): `metric;dur=MILLISECONDS;desc="…"`, commas between metrics. Whatever it holds is a stranger's: names are tokens of
bounded length, durations plain decimals up to a day, and how many were refused is counted. Descriptions are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from engines.contract import ServerFacts

MAX_DURATIONS = 16
MAX_HEADER_CHARS = 8 * 1024
NS_PER_MS = 1e6
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)(?:"|$)')
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_MILLISECONDS = re.compile(r"\d{1,8}(?:\.\d{1,12})?")


class HeadFacts(NamedTuple):
    """Durations, and the id as it came: most servers give back the one that was sent."""

    server: ServerFacts | None
    server_id: str | None


def head_facts(headers: Mapping[str, str]) -> HeadFacts:
    """Runs once a response."""
    timing, server_id = headers.get("server-timing"), headers.get("x-request-id") or headers.get("request-id")
    if timing is None:
        return HeadFacts(None, server_id)
    durations_ns, refused = durations_of(timing)
    return HeadFacts(ServerFacts(durations_ns=durations_ns, refused=refused), server_id)


def durations_of(timing: str) -> tuple[dict[str, int], int]:
    """The durations by name, in ns, the last of equal names, and how many metrics were refused. One without a duration is no more than a
    mark, and neither."""
    found: dict[str, int] = {}
    metrics = _QUOTED.sub(_number_or_nothing, timing[:MAX_HEADER_CHARS]).split(",")
    refused = max(0, len(metrics) - MAX_DURATIONS) + (len(timing) > MAX_HEADER_CHARS)
    for metric in metrics[:MAX_DURATIONS]:
        name, *parameters = (part.strip() for part in metric.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        duration = next((value.strip() for key, _, value in pairs if key.strip().lower() == "dur"), None)
        if duration is None:
            continue
        if _NAME.fullmatch(name) and _MILLISECONDS.fullmatch(duration):
            found[name] = round(float(duration) * NS_PER_MS)
        else:
            refused += 1
    return found, refused


def _number_or_nothing(quoted: re.Match[str]) -> str:
    return quoted[1] if _MILLISECONDS.fullmatch(quoted[1]) else "_"
