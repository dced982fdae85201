"""Hardware that the user of `bmp site build` assigns to runs, which goes before what they say themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware.card import Card
from bytemlperf.hardware.measured import Stated, parse_device


class Assignment(NamedTuple):
    """Runs whose folder or label fits `pattern` used this."""

    pattern: str
    device: Stated


def parse_assignments(texts: Sequence[str], known: Mapping[str, Card]) -> list[Assignment]:
    """`PATTERN=CARD` or `PATTERN=CARD*COUNT`. Raises UserError."""
    assignments = []
    for text in texts:
        pattern, _, device = text.partition("=")
        if not pattern or not re.fullmatch(r"[^*]+(\*([1-9]\d{0,5})?)?", device):
            raise UserError(f"--card {text!r} is not PATTERN=CARD or PATTERN=CARD*COUNT", "write for example --card '*h100*=h100*8'")
        assignments.append(Assignment(pattern, parse_device(device.removesuffix("*"), known)))
    return assignments


def assigned_to(folder_name: str, label: str, assignments: Sequence[Assignment]) -> Stated | None:
    """The first that fits; None without one."""
    fitting = (each.device for each in assignments if fnmatch(folder_name, each.pattern) or fnmatch(label, each.pattern))
    return next(fitting, None)
