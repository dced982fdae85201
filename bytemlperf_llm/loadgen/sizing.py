"""How many workers a run gets, out of what was asked and what can be split."""

from __future__ import annotations

from typing import NamedTuple

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import Scenario
from engines.contract import Engine
from engines.processor import cores_but_one


class Size(NamedTuple):
    """`why` is a sentence where it's fewer than asked for."""

    workers: int
    why: str = ""


def check_splittable(engine: type[Engine], name: str, workers: int | None, ray: str | None) -> None:
    """Raises UserError where several workers would each load the model."""
    if engine.weights == "local" and (ray is not None or workers != 1):
        flag = f"--workers {workers or 'auto'}" if ray is None else "--ray"
        raise UserError(
            f"{flag} makes a load worker of each process, and engine '{name}' runs inside the one that loads the model",
            f"leave {flag.split()[0]} out, or serve the model and measure it with --engine openai",
        )


def local_size(workers: int | None, scenario: Scenario, scheduled: int | None) -> Size:
    """Processes of this machine. Without a number one core is left to the rest."""
    return bounded(cores_but_one() if workers is None else workers, scenario, scheduled)


def bounded(asked: int, scenario: Scenario, scheduled: int | None) -> Size:
    """No more workers than slots (a closed loop's, or a cap's) or requests."""
    limits = [(scenario.arrival.max_concurrency, "requests in flight"), (scheduled, "requests")]
    limit, what = min(((number, text) for number, text in limits if number is not None), default=(asked, ""))
    if limit >= asked:
        return Size(asked)
    return Size(max(1, limit), f"{max(1, limit)} workers, not {asked}: there are only {limit} {what} to share")
