"""The audit of caching, on a virtual clock: what is cached is found, and what isn't is never named."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.doctor.caching import KEPT_ANSWERS, NO_CACHING, PREFIX_CACHE, Audit, audit_of, pair_records
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.plan.scenario import load
from bytemlperf_llm.workload import Workload
from engines.contract import EngineError, Finish, Request, Usage
from tests.cache.servers import Caching
from tests.cli.helpers import bmp
from tests.engines.small_server import answering
from tests.virtual import MS, ScriptedEngine, run, sleep_ns

SEEDS = range(40)
PAIRS = 30


class Server(ScriptedEngine):
    """100 ms to the first token, 10 ms for each other, a jitter of 25 %; a prompt that it knows takes `first` and `rest` of that."""

    def __init__(self, seed: int, first: float = 1.0, rest: float = 1.0, reported: int | None = None) -> None:
        super().__init__([])
        self._draw, self._first, self._rest, self._reported = random.Random(seed), first, rest, reported
        self._known: set[object] = set()

    async def generate(self, request: Request, recorder: Any) -> Finish:
        known = request.messages in self._known
        self._known.add(request.messages)
        recorder.sent()
        for place in range(request.max_tokens):
            usual_ns, part = (10 * MS, self._rest) if place else (100 * MS, self._first)
            await sleep_ns(round(usual_ns * (part if known else 1.0) * self._draw.lognormvariate(0.0, 0.25)))
            recorder.chunk(1)
        cached = None if self._reported is None else self._reported * known
        return Finish(reason="length", usage=Usage(prompt_tokens=100, output_tokens=request.max_tokens, cached_tokens=cached))


def audited(engine: ScriptedEngine, seed: int) -> Audit:
    scenario = load("chat").override(
        {
            "prompts": {"synthetic": {"words": {"distribution": "constant", "value": 40}}},
            "output_tokens": {"distribution": "constant", "value": 8},
        }
    )

    async def main(loop: Any) -> Audit:
        return audit_of(await pair_records(engine, Workload(scenario, seed), PAIRS, seed, Timeouts(), loop.now_ns))

    found: Audit = run(main)
    return found


@pytest.mark.parametrize(
    ("first", "rest", "verdict"),
    [(1.0, 1.0, NO_CACHING), (0.95, 1.0, NO_CACHING), (0.4, 1.0, PREFIX_CACHE), (0.02, 0.0, KEPT_ANSWERS), (1.0, 0.3, KEPT_ANSWERS)],
)
def test_every_seed_has_the_right_verdict(first: float, rest: float, verdict: str) -> None:
    assert {audited(Server(seed, first, rest), seed).verdict for seed in SEEDS} == {verdict}


def test_a_server_that_says_so_itself_needs_no_difference_in_time() -> None:
    assert audited(Server(0, reported=96), 0).verdict == PREFIX_CACHE
    assert audited(Server(0, reported=4), 0).verdict == NO_CACHING


def test_each_pair_has_one_prompt_that_was_sent_and_one_that_was_not() -> None:
    audit = audited(Server(0, first=0.5), 0)
    assert len(audit.unique) == len(audit.repeated) == PAIRS
    assert audit.first.low < 0.5 < audit.first.high
    assert audit.rest.low < 1.0 < audit.rest.high


def test_a_server_that_fails_is_no_verdict() -> None:
    class Failing(Server):
        async def generate(self, request: Request, recorder: Any) -> Finish:
            if request.index > 9:
                raise EngineError("http_5xx", "HTTP 500")
            return await super().generate(request, recorder)

    with pytest.raises(UserError, match="only 8 of 60 requests had a response, http_5xx: HTTP 500"):
        audited(Failing(0), 0)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "status", "verdict"), [((), 1, PREFIX_CACHE), (("--quiet",), 1, PREFIX_CACHE)])
def test_the_command_on_a_server_that_reports_hits(tmp_path: Path, words: tuple[str, ...], status: int, verdict: str) -> None:
    async def main() -> Any:
        async with answering(Caching().answer) as small:
            command = ("audit", "cache", "--base-url", small.url, "--num-prompts", "20", "--input-len", "40", "--output-len", "3")
            return await asyncio.to_thread(bmp, *command, *words, cwd=tmp_path)

    ended = asyncio.run(main())
    assert ended.returncode == status, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"verdict: {verdict}"
    assert ("never sent" in ended.stdout) is not bool(words)
