"""Probes of servers alone, by plain requests beside the engine's own; as OpenAI's API reference and vLLM's have the fields."""

from __future__ import annotations

from typing import Any

from bytemlperf_llm.conformance.subject import COUNT, ENOUGH_TOKENS, SHORT, Asked, Lacks, Reply, Untold
from engines.contract import Counted

LEAST_TOKENS = 32
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


async def orders_events(asked: Asked) -> str:
    """Text, then the finish reason, then usage, then [DONE]; one id."""
    reply = await asked.taken(COUNT.format(1, 20), **STREAMED)
    ends = [place for place, event in enumerate(reply.events) if any(one.get("finish_reason") for one in event.get("choices") or [])]
    words = [place for place, event in enumerate(reply.events) if Reply(reply.exchange, [event], done=False).text]
    usage = [place for place, event in enumerate(reply.events) if event.get("usage")]
    if not ends or not words or ends[-1] < words[-1]:
        raise Lacks("no finish reason comes with the last text, or after it")
    if usage and usage[-1] < ends[-1]:
        raise Lacks("usage comes before the finish reason")
    if len({event.get("id") for event in reply.events}) > 1:
        raise Lacks("events of one response have several ids")
    if not reply.done:
        raise Lacks("no [DONE] at the end")
    return f"text, finish reason, {'usage, ' if usage else ''}[DONE]"


async def keeps_to_min_tokens(asked: Asked) -> str:
    natural = await asked.taken(max_tokens=ENOUGH_TOKENS)
    if not 0 < natural.output_tokens < LEAST_TOKENS:
        raise Untold(f"no answer ended by itself within {LEAST_TOKENS} tokens")
    forced = await asked.taken(max_tokens=ENOUGH_TOKENS, min_tokens=LEAST_TOKENS)
    if forced.output_tokens < LEAST_TOKENS:
        raise Lacks(f"{forced.output_tokens} tokens for min_tokens={LEAST_TOKENS}")
    return f"{forced.output_tokens} tokens for min_tokens={LEAST_TOKENS}, {natural.output_tokens} without it"


async def stops_at_strings(asked: Asked) -> str:
    whole = (await asked.taken(COUNT.format(1, 20), max_tokens=24)).text
    words = whole.split()
    word = next((each for each in words[len(words) // 2 :] if words.index(each) >= len(words) // 2), "")
    if not word:
        raise Untold("no answer with a word that comes once")
    cut = await asked.taken(COUNT.format(1, 20), max_tokens=24, stop=[word])
    if word in cut.text or cut.text == whole:
        raise Lacks("the answer goes on behind the stop string")
    if cut.reason != "stop":
        raise Lacks(f"it ends with {cut.reason or 'no reason'}, not stop")
    return "cut off before it, finish reason stop"


async def gives_several(asked: Asked) -> str:
    reply = await asked.taken(n=2, temperature=1.0)
    indices = {choice.get("index") for choice in reply.choices}
    if indices != {0, 1}:
        raise Lacks(f"{len(reply.choices)} answer for n=2")
    return "2 answers for n=2"


async def gives_logprobs(asked: Asked) -> str:
    fields: dict[str, Any] = {"logprobs": 2} if asked.info.api == "completions" else {"logprobs": True, "top_logprobs": 2}
    reply = await asked.taken(**fields)
    if "logprobs" not in reply.fields():
        raise Lacks("the field is taken, and none come")
    return "with the 2 most likely tokens"


async def calls_tools(asked: Asked) -> str:
    if asked.info.api != "chat":
        raise Untold("tools are for chats")
    choice = {"type": "function", "function": {"name": "get_weather"}}
    reply = await asked.taken("What is the weather in Rome?", max_tokens=ENOUGH_TOKENS, tools=[TOOL], tool_choice=choice)
    if "tool_calls" not in reply.fields():
        raise Lacks("a named tool was asked for, and no tool_calls came")
    return "a named tool is called"


async def tells_reasoning(asked: Asked) -> str:
    if asked.info.api != "chat":
        raise Untold("reasoning is for chats")
    reply = await asked.taken("Think, then answer: what is 2 plus 3?", max_tokens=ENOUGH_TOKENS, **STREAMED)
    if not (fields := reply.fields() & {"reasoning", "reasoning_content"}):
        raise Untold("the server sends no reasoning field")
    return f"the field {fields.pop()}"


async def classes_errors(asked: Asked) -> str:
    seen = []
    for what, fields in (("temperature -5", {"temperature": -5}), ("an unknown model", {"model": "no-such-model"})):
        status = (await asked.post(**fields)).exchange.status
        if not 400 <= status < 500:
            raise Lacks(f"{what}: HTTP {status}")
        seen.append(f"{what}: HTTP {status}")
    return ", ".join(seen)


async def keeps_alive(asked: Asked) -> str:
    reply = await asked.taken()
    if not reply.exchange.keep_alive:
        raise Lacks("the server closes after each response")
    return "the connection stays open"


async def speaks_http(asked: Asked) -> str:
    protocol = (await asked.taken()).exchange.protocol
    if not protocol:
        raise Untold("a proxy is between, or the aiohttp transport")
    return protocol


async def compresses(asked: Asked) -> str:
    reply = await asked.post(SHORT, {"Accept-Encoding": "gzip"}, max_tokens=ENOUGH_TOKENS)
    if not (encoding := reply.exchange.headers.get("content-encoding")):
        raise Lacks("gzip is offered, and responses come as they are")
    return f"{encoding} where it is offered; runs don't offer it"


async def lists_models(asked: Asked) -> str:
    page = await asked.page("/v1/models")
    if page.status != 200:
        raise Lacks(f"HTTP {page.status}")
    if asked.info.model.encode() not in page.body:
        raise Lacks(f"{asked.info.model} is not among them")
    context = asked.info.max_model_len
    return f"{asked.info.model}, context {f'{context:,} tokens' if context else 'not told'}"


async def has_metrics(asked: Asked) -> str:
    page = await asked.page("/metrics")
    if page.status != 200:
        raise Lacks(f"HTTP {page.status}")
    counted = (await asked.engine.counted()).get("", Counted())  # type: ignore[attr-defined]
    known = [*sorted(asked.stats()), *sorted({*counted.counts, *counted.latencies})]
    return f"{', '.join(known)} of them are read" if known else "none of its names is known here"
