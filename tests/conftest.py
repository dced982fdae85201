"""How the tests are shared out when several processes run them (`-n 2`, pytest-xdist): a file stays in one,
and so does a folder whose files share what is slow to start. Those folders come first, so that no process is left
with one of them when all others are done."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TOGETHER = ("training",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups = {item: group_of(item.path.relative_to(TESTS)) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: groups[item] not in TOGETHER)


def group_of(file: Path) -> str:
    return file.parts[0] if file.parts[0] in TOGETHER else file.as_posix()
