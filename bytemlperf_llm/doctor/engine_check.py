"""`bmp-llm engine check NAME`: an engine against the contract, with real requests.

Each check is one function that returns what it saw, or raises `Violation` with what the contract
asks for. A vendor runs it in an afternoon; it measures nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import msgspec

from bytemlperf.command.flags import pairs
from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor
from bytemlperf_llm.loadgen.engine_start import engine_class, start_engine
from bytemlperf_llm.loadgen.recorder import RequestRecorder
from bytemlperf_llm.run.preflight import resolve_model
from engines.contract import Decoded, Engine, EngineError, EngineInfo, Finish, Message, Request, Sampling

OUTPUT_TOKENS = 8
CONCURRENT = 4
REQUEST_TIMEOUT_S = 120.0
EXIT_FAILED = 1


class Violation(Exception):
    """The engine breaks the contract."""


class Answer(NamedTuple):
    """One request's outcome, as the load generator would see it."""

    recorder: RequestRecorder
    finish: Finish
    decoded: Decoded

    @property
    def tokens(self) -> int:
        """What the chunks carry."""
        return sum(self.decoded.tokens_per_chunk)


def run_engine_check(name: str, model_name: str | None, options: Iterable[str]) -> int:
    """Print one line a check; 0 when all hold."""
    engine_type = engine_class(name)
    results = asyncio.run(_check(engine_type, model_name, pairs("--engine-option", options)))
    for check, problem, seen in results:
        print(f"{'FAIL' if problem else 'ok  '} {check}: {problem or seen}")
    failed = sum(1 for _, problem, _ in results if problem)
    print(f"{name}: {len(results) - failed} of {len(results)} checks passed")
    return EXIT_FAILED if failed else 0


async def _check(engine_type: type[Engine], model_name: str | None, options: dict[str, str]) -> list[tuple[str, str, str]]:
    engine, redactor = engine_type(), Redactor()
    results: list[tuple[str, str, str]] = []
    try:
        model = resolve_model(engine_type, model_name, lambda _: None)
        info = await start_engine(engine, model, options, redactor)
        for title, check in CHECKS:
            try:
                results.append((title, "", await asyncio.wait_for(check(engine, info), REQUEST_TIMEOUT_S)))
            except Violation as violation:
                results.append((title, str(violation), ""))
            except (EngineError, TimeoutError) as error:
                results.append((title, f"{type(error).__name__}: {error}", ""))
    finally:
        await engine.close()
    results.append(("close may be called again", await _closes_again(engine), "it may"))
    return [(title, redactor.clean(problem), redactor.clean(seen)) for title, problem, seen in results]


async def ask(engine: Engine, index: int = 0, max_tokens: int = OUTPUT_TOKENS) -> Answer:
    """One chat request through the engine."""
    request = Request(
        index=index,
        id=f"check-{index}",
        max_tokens=max_tokens,
        messages=(Message(role="user", content=f"Count from {index} to {index + 20}."),),
        sampling=Sampling(temperature=0.0, ignore_eos=True),
    )
    recorder = RequestRecorder()
    finish = await engine.generate(request, recorder)
    return Answer(recorder, finish, engine.decode(recorder.payloads))


# -- checks, in order ------------------------------------------------------------


async def _describes_itself(_engine: Engine, info: EngineInfo) -> str:
    if not info.name:
        raise Violation("EngineInfo.name is empty")
    if unknown := set(info.reports) - {"usage", "stages", "stats"}:
        raise Violation(f"EngineInfo.reports has unknown words: {', '.join(sorted(unknown))}")
    msgspec.json.encode(info)
    return f"{info.name}, {info.device or 'no device named'}, reports {', '.join(info.reports) or 'nothing'}"


async def _stamps(engine: Engine, _info: EngineInfo) -> str:
    answer = await ask(engine)
    if answer.recorder.sent_ns is None:
        raise Violation("generate never called recorder.sent()")
    if not answer.recorder.chunk_ns:
        raise Violation("generate never called recorder.chunk()")
    if answer.recorder.chunk_ns[0] < answer.recorder.sent_ns:
        raise Violation("a chunk arrived before recorder.sent()")
    return f"sent, then {len(answer.recorder.chunk_ns)} chunks"


async def _decodes(engine: Engine, _info: EngineInfo) -> str:
    answer = await ask(engine)
    if len(answer.decoded.tokens_per_chunk) != len(answer.recorder.payloads):
        raise Violation(f"decode gave {len(answer.decoded.tokens_per_chunk)} counts for {len(answer.recorder.payloads)} payloads")
    if answer.decoded.error_class is not None:
        raise Violation(f"decode says {answer.decoded.error_class}: {answer.decoded.error_detail}")
    if answer.tokens != OUTPUT_TOKENS:
        raise Violation(f"{answer.tokens} tokens for max_tokens={OUTPUT_TOKENS} and ignore_eos")
    return f"{answer.tokens} tokens, text of {len(answer.decoded.text)} characters"


async def _streams(engine: Engine, _info: EngineInfo) -> str:
    answer = await ask(engine, max_tokens=4 * OUTPUT_TOKENS)
    carrying = sum(1 for tokens in answer.decoded.tokens_per_chunk if tokens)
    if carrying < 2:
        raise Violation("the whole response came in one chunk: nothing is streamed")
    return f"{answer.tokens} tokens in {carrying} chunks"


async def _reports_usage(engine: Engine, info: EngineInfo) -> str:
    answer = await ask(engine)
    usage = answer.finish.usage or answer.decoded.usage
    if "usage" not in info.reports:
        return "not reported, and not claimed"
    if usage is None or not usage.prompt_tokens or usage.output_tokens != OUTPUT_TOKENS:
        raise Violation(f"usage is claimed, and is {usage}")
    return f"{usage.prompt_tokens} prompt and {usage.output_tokens} output tokens"


async def _reports_stages(engine: Engine, info: EngineInfo) -> str:
    answer = await ask(engine)
    if "stages" not in info.reports:
        return "not reported, and not claimed"
    stages = answer.finish.stages
    if stages is None:
        raise Violation("stages are claimed, and Finish.stages is None")
    order = [
        answer.recorder.sent_ns,
        stages.queued_ns,
        stages.scheduled_ns,
        stages.first_token_ns,
        stages.last_token_ns,
        answer.recorder.chunk_ns[-1],
    ]
    known = [stamp for stamp in order if stamp is not None]
    if known != sorted(known):
        raise Violation("stages are out of order, or not on CLOCK_MONOTONIC")
    return "in order, between sent and the last chunk"


async def _runs_concurrently(engine: Engine, _info: EngineInfo) -> str:
    answers = await asyncio.gather(*(ask(engine, index) for index in range(CONCURRENT)))
    if any(answer.tokens != OUTPUT_TOKENS for answer in answers):
        raise Violation(f"{CONCURRENT} at once gave {[answer.tokens for answer in answers]} tokens")
    first_chunks, last_chunks = [answer.recorder.chunk_ns[0] for answer in answers], [answer.recorder.chunk_ns[-1] for answer in answers]
    together = max(first_chunks) < min(last_chunks)
    return f"{CONCURRENT} at once" + ("" if together else ", served one after the other")


async def _can_be_cancelled(engine: Engine, _info: EngineInfo) -> str:
    task = asyncio.ensure_future(ask(engine, max_tokens=512))
    await asyncio.sleep(0.2)
    task.cancel()
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    if not isinstance(outcome, asyncio.CancelledError | Answer):
        raise Violation(f"a cancelled request raised {type(outcome).__name__}")
    answer = await ask(engine)
    if answer.tokens != OUTPUT_TOKENS:
        raise Violation("the request after a cancelled one did not complete")
    return "and the next request is whole"


async def _refuses_bad_options(engine: Engine, _info: EngineInfo) -> str:
    fresh = type(engine)()
    try:
        await start_engine(fresh, None, {"no_such_option": "1"}, Redactor())
    except UserError as error:
        return error.cause
    finally:
        await fresh.close()
    raise Violation("an unknown option was taken: use contract.parse_options")


async def _decodes_nothing(engine: Engine, _info: EngineInfo) -> str:
    decoded = engine.decode([])
    if decoded.tokens_per_chunk:
        raise Violation("decode([]) counts tokens")
    return "no tokens"


async def _closes_again(engine: Engine) -> str:
    try:
        await engine.close()
    except Exception as error:
        return f"a second close raised {type(error).__name__}: {error}"
    return ""


Check = Callable[[Engine, EngineInfo], Awaitable[str]]
CHECKS: tuple[tuple[str, Check], ...] = (
    ("describes itself", _describes_itself),
    ("stamps sending and arrival", _stamps),
    ("decodes what it streamed", _decodes),
    ("decodes nothing from nothing", _decodes_nothing),
    ("streams", _streams),
    ("reports usage", _reports_usage),
    ("reports stages", _reports_stages),
    ("takes several requests at once", _runs_concurrently),
    ("lets a request be cancelled", _can_be_cancelled),
    ("refuses unknown options", _refuses_bad_options),
)
