"""Models for the in-process engines' tests, resolved once a session."""

from __future__ import annotations

import pytest

from bytemlperf.errors import UserError
from bytemlperf.models import resolve
from engines.contract import Model


@pytest.fixture(scope="session")
def synthetic() -> Model:
    return resolve("synthetic")


@pytest.fixture(scope="session")
def smollm2() -> Model:
    try:
        return resolve("smollm2")
    except UserError as error:
        pytest.skip(f"the weights can't be had here: {error}")
