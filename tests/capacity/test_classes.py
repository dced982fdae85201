"""A search judges all requests alike."""

from __future__ import annotations

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.capacity.command import task_of
from bytemlperf_llm.capacity.flags import CapacityFlags
from bytemlperf_llm.plan.flags import Flags


def test_classes_with_service_levels_of_their_own_need_one_for_all() -> None:
    with pytest.raises(UserError, match="a capacity has one set of service levels, and the scenario's classes have their own"):
        task_of(Flags(engine="reference", scenario="mixed"), CapacityFlags())
    assert task_of(Flags(engine="reference", scenario="mixed", goodput=("ttft:9",)), CapacityFlags()).question.slo_ms == {"ttft": 9.0}
