"""Tags of a run: words in `tags.json` of its own folder, so that they travel with it and no index is their only copy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from bytemlperf.errors import UserError
from bytemlperf.runs.files import UNREADABLE, json_of, writing
from bytemlperf.runs.folder import write_json

NAME = "tags.json"
_TAG = re.compile(r"[\w][\w.:/-]{0,63}")


def read_tags(folder: Path) -> list[str]:
    """A run's tags in order; none where there is no file, or one that holds no list of words."""
    try:
        content = json_of(folder / NAME)
    except UNREADABLE:
        return []
    return sorted({tag for tag in content if isinstance(tag, str) and _TAG.fullmatch(tag)}) if isinstance(content, list) else []


def change_tags(folder: Path, add: Iterable[str] = (), remove: Iterable[str] = ()) -> list[str]:
    """Add and remove tags; returns what is left. Raises UserError for what is no tag, or a folder that can't be written."""
    add = list(add)
    for tag in add:
        if not _TAG.fullmatch(tag):
            raise UserError(f"{tag!r} is not a valid tag", "use letters, digits and . : / _ -, up to 64 of them")
    tags = sorted({*read_tags(folder), *add} - set(remove))
    with writing(folder / NAME, "make the folder writable"):
        write_json(folder / NAME, tags)
    return tags
