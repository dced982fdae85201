"""Whatever a provider does instead of its work, the row says so; what works is not accused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from micro.cases.case import validate
from micro.command.check import CHEAT_RULES, CHEATED
from micro.measure.correctness import TRIES
from micro.measure.messages import Job, Outcome
from micro.measure.timing import CpuStopwatch, Rules
from micro.providers.cheats import CHEATS
from micro.providers.contract import Kernel
from micro.registry import OPERATORS
from tests.micro.fakes import VirtualStopwatch, timed
from tests.micro.test_providers import COMPUTED

torch = pytest.importorskip("torch")


def done(op: str, provider: str, given: dict[str, Any], rules: Rules = CHEAT_RULES, cache_bytes: int = 0) -> Outcome:
    from micro.sweep.worker import do

    args = validate(OPERATORS[op], given)
    job = Job(op=op, provider=provider, args=args, device="cpu", seed=1, rules=rules, cache_bytes=cache_bytes)
    return do(job, CpuStopwatch(), lambda _stage: None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("op", CHEATED)
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_caught(cheat: str, op: str) -> None:
    outcome = done(op, cheat, CHEATED[op], cache_bytes=1 << 18 if cheat in ("cheat:address", "cheat:early") else 0)
    if cheat == "cheat:content" and op != "gemm":
        assert outcome.status == "refused"
        return
    assert outcome.status == "failed"
    assert outcome.reason.startswith("wrong result")
    assert outcome.timed is None


@pytest.mark.parametrize("op", [op for op in CHEATED if op != "gemm"])
@pytest.mark.parametrize("cheat", [cheat for cheat in CHEATS if cheat != "cheat:content"])
def test_a_cheat_is_caught_where_nothing_is_timed(cheat: str, op: str) -> None:
    assert done(op, cheat, CHEATED[op], Rules(max_samples=0)).status == "failed"


@pytest.mark.parametrize("cheat", [cheat for cheat in CHEATS if cheat != "cheat:content"])
def test_a_cheat_is_caught_where_the_last_call_alone_is_compared(cheat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micro.sweep.worker.FIRST_CHECKED_BYTES", 0)
    outcome = done("softmax", cheat, CHEATED["softmax"])
    assert outcome.status == "failed"
    assert outcome.reason.startswith("wrong result of the last timed call")
    assert done("softmax", "torch", CHEATED["softmax"]).status == "ok"


SAME = {
    "stream_copy": {"size": 17},
    "stream_triad": {"size": 2},
    "softmax": {"batch_size": 4, "dim_size": 1},
    "reduce_sum": {"batch_size": 1, "dim_size": 64},
}
"""Where other values may well give the same result, or have it already."""


@pytest.mark.parametrize("op", SAME)
def test_the_same_result_of_other_values_may_be_right(op: str) -> None:
    assert done(op, "torch", SAME[op], Rules(warm_up_s=0.01, budget_s=0.02)).reason == ""


@pytest.mark.parametrize(("provider", "op", "given"), [*COMPUTED, *(("torch", op, given) for op, given in CHEATED.items())])
def test_what_computes_is_not_accused(provider: str, op: str, given: dict[str, Any]) -> None:
    outcome = done(op, provider, given, Rules(warm_up_s=0.01, budget_s=0.02), cache_bytes=1 << 18)
    assert (outcome.status, outcome.reason) == ("ok", "")
    assert outcome.timed is not None


@pytest.mark.parametrize(
    ("call_ns", "fault"),
    [
        (lambda _call: 10_000_000, ""),
        (lambda call: 10_000_000 * (1 + 9 * (call < 3)), ""),  # disturbed three times
        (
            lambda call: 10_000_000 * (1 + 9 * (call < TRIES)),
            "a call on new values took 100,000 µs, 10.0 times the median: results are kept",
        ),
        (lambda _call: 100_000_000, ""),  # on the same values too: the machine has become slow
        (lambda _call: 10_400_000, ""),
    ],
)
def test_the_last_call_is_held_against_the_median_and_tried_again(call_ns: Callable[[int], int], fault: str) -> None:
    from micro.measure.correctness import last_call

    given, values = (torch.zeros(8), torch.arange(8)), (torch.ones(8), torch.arange(8))
    clock = VirtualStopwatch(call_ns)
    last = last_call(Kernel(lambda x, _index: x * 2), (), [given], given, values, clock, timed([10_000_000] * 20))
    assert last.fault == fault
    assert torch.equal(last.outputs, torch.full((8,), 2.0))


def test_an_overwritten_input_is_named() -> None:
    from micro.measure.correctness import changed

    nan = torch.tensor([float("nan")])
    assert changed((nan, torch.ones(2)), (nan.clone(), torch.ones(2)), set()) == ""
    assert changed((nan, torch.ones(2)), (nan, torch.zeros(2)), set()) == "the kernel overwrote its input 1"
    assert changed((nan, torch.ones(2)), (nan, torch.zeros(2)), {1}) == ""
