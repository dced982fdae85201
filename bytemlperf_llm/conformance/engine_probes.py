"""Probes by the contract alone, for engines in this process and for servers. Each returns what it saw; raises Lacks or Untold with why."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor
from bytemlperf_llm.conformance.subject import COUNT, ENOUGH_TOKENS, GREEDY, OUTPUT_TOKENS, SHORT, Answer, Asked, Lacks, Untold, until
from bytemlperf_llm.loadgen.engine_start import start_engine
from bytemlperf_llm.loadgen.recorder import RequestRecorder
from engines.contract import EngineError, Message, Request, Sampling

CONCURRENT = 4
FREED_WITHIN_S = 15.0
CANCELLED_TOKENS = 512
LONG_PROMPT = " ".join(f"Item {number} of the list is number {number * 7}." for number in range(60))
MOST_WORDS = 200_000


async def describes_itself(asked: Asked) -> str:
    info = asked.info
    if not info.name:
        raise Lacks("EngineInfo.name is empty")
    if unknown := set(info.reports) - {"usage", "stages", "stats"}:
        raise Lacks(f"EngineInfo.reports has unknown words: {', '.join(sorted(unknown))}")
    msgspec.json.encode(info)
    return f"{info.name}, {info.device or 'no device named'}, reports {', '.join(info.reports) or 'nothing'}"


async def stamps(asked: Asked) -> str:
    answer = await asked.ask()
    chunk_ns, sent_ns = answer.recorder.chunk_ns, answer.recorder.sent_ns
    if sent_ns is None:
        raise Lacks("generate never called recorder.sent()")
    if not chunk_ns:
        raise Lacks("generate never called recorder.chunk()")
    if [sent_ns, *chunk_ns] != sorted([sent_ns, *chunk_ns]):
        raise Lacks("a chunk arrived before recorder.sent(), or before the chunk that it follows")
    return f"sent, then {len(chunk_ns)} chunks"


async def decodes(asked: Asked) -> str:
    if asked.engine.decode([]).tokens_per_chunk:
        raise Lacks("decode([]) counts tokens")
    answer = await asked.ask()
    counts, payloads = answer.decoded.tokens_per_chunk, answer.recorder.payloads
    if len(counts) != len(payloads):
        raise Lacks(f"decode gave {len(counts)} counts for {len(payloads)} payloads")
    return f"{answer.tokens} tokens, text of {len(answer.text)} characters"


async def streams(asked: Asked) -> str:
    answer = await asked.ask(max_tokens=4 * OUTPUT_TOKENS)
    carrying = sum(1 for tokens in answer.decoded.tokens_per_chunk if tokens)
    if carrying < 2:
        raise Lacks("the whole response came in one chunk: nothing is streamed")
    return f"{answer.tokens} tokens in {carrying} chunks"


async def counts_tokens(asked: Asked) -> str:
    """`max_tokens`, and usage beside what was streamed."""
    for limit in (1, 2, OUTPUT_TOKENS):
        answer = await asked.ask(max_tokens=limit)
        if answer.tokens > limit or (asked.sampling.ignore_eos and answer.tokens < limit and not asked.remote):
            raise Lacks(f"{answer.tokens} tokens for max_tokens={limit}{' and ignore_eos' if asked.sampling.ignore_eos else ''}")
    return f"1, 2 and {OUTPUT_TOKENS} tokens as given"


async def reports_usage(asked: Asked) -> str:
    answer = await asked.ask()
    usage = answer.usage
    if "usage" not in asked.info.reports or (asked.remote and usage is None):
        raise Untold("the engine reports none" if not asked.remote else "the server sends none in its stream")
    if usage is None or not usage.prompt_tokens or not usage.output_tokens:
        raise Lacks(f"usage is claimed, and is {usage}")
    shown = answer.decoded.shown_tokens if answer.decoded.shown_tokens is not None else answer.tokens
    if usage.output_tokens != shown:
        raise Lacks(f"usage counts {usage.output_tokens} output tokens, the stream shows {shown}")
    return f"{usage.prompt_tokens} prompt and {usage.output_tokens} output tokens, as streamed"


async def ignores_eos(asked: Asked) -> str:
    natural = await _natural(asked)
    forced = await asked.ask(SHORT, ENOUGH_TOKENS, GREEDY)
    if forced.tokens != ENOUGH_TOKENS:
        raise Lacks(f"{forced.tokens} of {ENOUGH_TOKENS} tokens")
    return f"{ENOUGH_TOKENS} tokens, {natural.tokens} without it"


async def gives_reasons(asked: Asked) -> str:
    limited = await asked.ask()
    if limited.reason != "length":
        raise Lacks(f"an answer that is cut off ends with {limited.reason or 'no reason'}, not length")
    with suppress(Untold):
        natural = await _natural(asked)
        if natural.reason not in ("stop", "eos", "eos_token", "end_turn"):
            raise Lacks(f"an answer that ends by itself ends with {natural.reason or 'no reason'}, not stop")
        return "length, stop"
    return "length"


async def _natural(asked: Asked) -> Answer:
    """An answer that ended by itself."""
    answer = await asked.ask(SHORT, ENOUGH_TOKENS, Sampling(temperature=0.0, ignore_eos=False))
    if answer.tokens >= ENOUGH_TOKENS:
        raise Untold(f"no answer ended by itself within {ENOUGH_TOKENS} tokens")
    return answer


async def repeats_seeds(asked: Asked) -> str:
    prompt = "Write a line about the sea."
    drawn = [await asked.ask(prompt, 24, Sampling(temperature=1.0, seed=seed, ignore_eos=asked.sampling.ignore_eos)) for seed in (7, 7, 8)]
    if drawn[0].text != drawn[1].text:
        raise Lacks("one seed gave two answers")
    if drawn[0].text == drawn[2].text:
        raise Lacks("another seed gave the same answer")
    return "one seed, one answer; another seed, another"


async def greedy_alone(asked: Asked) -> str:
    texts = [(await asked.ask(COUNT.format(3, 30), 32)).text for _ in range(3)]
    if len(set(texts)) > 1:
        raise Lacks(f"{len(set(texts))} answers to one prompt sent 3 times")
    return "3 equal answers of 32 tokens"


async def greedy_in_batch(asked: Asked) -> str:
    prompt = COUNT.format(3, 30)
    alone = await asked.ask(prompt, 32)
    others = [asked.ask(max_tokens=24 + 8 * number) for number in range(CONCURRENT - 1)]
    batched, *_ = await asyncio.gather(asked.ask(prompt, 32), *others)
    if batched.text != alone.text:
        same = next(place for place, (one, other) in enumerate(zip(f"{alone.text}\0", f"{batched.text}\0", strict=False)) if one != other)
        raise Lacks(f"differs from the answer alone after {same} characters")
    return f"among {CONCURRENT - 1} others as alone"


async def runs_concurrently(asked: Asked) -> str:
    answers = await asyncio.gather(*(asked.ask() for _ in range(CONCURRENT)))
    if any(answer.tokens > OUTPUT_TOKENS or not answer.tokens for answer in answers):
        raise Lacks(f"{CONCURRENT} at once gave {[answer.tokens for answer in answers]} tokens")
    together = max(answer.recorder.chunk_ns[0] for answer in answers) < min(answer.recorder.chunk_ns[-1] for answer in answers)
    return f"{CONCURRENT} at once" + ("" if together else ", served one after the other")


async def frees_cancelled(asked: Asked) -> str:
    recorder = RequestRecorder()
    task = asyncio.ensure_future(asked.ask(max_tokens=CANCELLED_TOKENS, recorder=recorder))
    await until(lambda: recorder.chunk_ns or task.done(), FREED_WITHIN_S)
    task.cancel()
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    if not isinstance(outcome, asyncio.CancelledError | Answer):
        raise Lacks(f"a cancelled request raised {type(outcome).__name__}")
    told = await until(lambda: "running" in asked.stats(), 2 if asked.remote else 0)
    if told and not await until(lambda: not asked.stats()["running"], FREED_WITHIN_S):
        raise Lacks(f"{asked.stats()['running']:g} still running {FREED_WITHIN_S:g} s after it")
    answer = await asked.ask()
    if not answer.tokens:
        raise Lacks("the request after a cancelled one did not complete")
    return ("none left running, and " if told else "") + "the next request is whole"


async def reports_stages(asked: Asked) -> str:
    if "stages" not in asked.info.reports:
        raise Untold("no stamps of its own come with a response" if asked.remote else "the engine reports none")
    answer = await asked.ask()
    stages = answer.finish.stages
    if stages is None:
        raise Lacks("stages are claimed, and Finish.stages is None")
    inner = (stages.queued_ns, stages.scheduled_ns, stages.first_token_ns, stages.last_token_ns)
    known = [stamp for stamp in (answer.recorder.sent_ns, *inner, answer.recorder.chunk_ns[-1]) if stamp is not None]
    if known != sorted(known):
        raise Lacks("stages are out of order, or not on CLOCK_MONOTONIC")
    return "in order, between sent and the last chunk"


async def tells_cached(asked: Asked) -> str:
    answers = [await asked.ask(LONG_PROMPT) for _ in range(2)]
    usage = answers[1].usage
    if usage is None or usage.cached_tokens is None:
        raise Untold("usage has no cached tokens")
    if not usage.cached_tokens:
        raise Lacks(f"0 of {usage.prompt_tokens} prompt tokens when it came again: no prefix cache, or it isn't told")
    return f"{usage.cached_tokens} of {usage.prompt_tokens} prompt tokens when it came again"


async def refuses_too_long(asked: Asked) -> str:
    context = asked.info.max_model_len
    if context is None or context > MOST_WORDS:
        raise Untold("the context's length isn't told" if context is None else f"a context of {context:,} tokens is too much to fill")
    try:
        await asked.ask("word " * (context + 100))
    except EngineError as error:
        if error.error_class != "context_length":
            raise Lacks(f"{error.error_class}, not context_length: {error.detail}") from None
        return f"more than {context:,} tokens: context_length"
    raise Lacks(f"a prompt of more than {context:,} tokens was answered")


async def takes_tools(asked: Asked) -> str:
    """In this process: that a template takes them."""
    tool = b'[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}]'
    message = Message(role="user", content="What is the weather in Rome?")
    plain, tooled = [
        await asked.engine.generate(
            Request(index=0, id=f"tools-{len(tools)}", max_tokens=1, messages=(message,), sampling=GREEDY, tools=tools), RequestRecorder()
        )
        for tools in ("", tool.decode())
    ]
    counts = [finish.usage.prompt_tokens if finish.usage else None for finish in (plain, tooled)]
    if None in counts:
        raise Untold("prompt tokens aren't told")
    if counts[0] == counts[1]:
        raise Lacks("the model's chat template has no place for them")
    return f"in the prompt: {counts[1]} tokens, {counts[0]} without them"


async def refuses_bad_options(asked: Asked) -> str:
    fresh = type(asked.engine)()
    try:
        await start_engine(fresh, None, {"no_such_option": "1"}, Redactor())
    except UserError as error:
        return error.cause
    finally:
        await fresh.close()
    raise Lacks("an unknown option was taken: use contract.parse_options")
