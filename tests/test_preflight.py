"""What is checked before an engine starts."""

from __future__ import annotations

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.run.preflight import check_available
from engines.contract import Availability
from engines.reference.engine import ReferenceEngine


class Missing(ReferenceEngine):
    @staticmethod
    def requirements() -> Availability:
        return Availability(missing="libfoo is not installed", fix="pip install foo")


def test_an_engine_that_cannot_start_is_named_with_the_mend():
    with pytest.raises(UserError) as caught:
        check_available(Missing, "foo")
    assert (caught.value.cause, caught.value.fix) == ("engine 'foo': libfoo is not installed", "pip install foo")


def test_an_engine_that_says_nothing_may_try():
    class Silent:
        pass

    check_available(Silent, "silent")
    check_available(ReferenceEngine, "reference")
