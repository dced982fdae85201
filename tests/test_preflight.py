"""What is checked before an engine starts."""

from __future__ import annotations

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import load
from bytemlperf_llm.run.preflight import check_available
from engines.contract import Availability
from engines.openai.engine import OpenAIEngine
from engines.reference.engine import ReferenceEngine


class Missing(ReferenceEngine):
    @staticmethod
    def requirements() -> Availability:
        return Availability(missing="libfoo is not installed", fix="pip install foo")


def test_an_engine_that_cannot_start_is_named_with_the_mend():
    with pytest.raises(UserError) as caught:
        check_available(Missing, "foo", load("smoke"))
    assert (caught.value.cause, caught.value.fix) == ("engine 'foo': libfoo is not installed", "pip install foo")


def test_an_engine_that_says_nothing_may_try():
    class Silent:
        pass

    check_available(Silent, "silent", load("smoke"))
    check_available(ReferenceEngine, "reference", load("smoke"))


@pytest.mark.parametrize(("key", "value"), [("priority", 0), ("headers", {"X-Tenant": "a"}), ("model", "adapter")])
def test_what_a_class_sets_and_the_engine_does_not_take_is_refused(key, value):
    scenario = load("mixed").override({f"classes.background.{key}": value})
    with pytest.raises(UserError, match=f"class 'background' of the scenario sets {key}, which engine 'reference' doesn't take"):
        check_available(ReferenceEngine, "reference", scenario)
    check_available(OpenAIEngine, "openai", scenario)
