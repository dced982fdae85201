"""How the tests are shared out when two processes run them (`-n 2 --dist loadfile`, pytest-xdist): a file stays in one
process, and what takes longest comes first, so that no process is left with it when the other has nothing more to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bytemlperf_llm.calibration.first import SKIP

os.environ.setdefault(*SKIP)  # ten seconds of every test with a cache of its own
TESTS = Path(__file__).parent
LONGEST = ("training", "engines", "cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in LONGEST)
