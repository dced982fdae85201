"""What probes ask: the engine by its contract, and a server by plain requests beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.lazy import psutil
from bytemlperf_llm.launch.server import Server
from bytemlperf_llm.loadgen.recorder import RequestRecorder
from engines.contract import Decoded, Engine, EngineError, EngineInfo, Exchange, Finish, Message, Request, Sampling, Usage
from engines.untrusted import decode_json

OUTPUT_TOKENS = 8
ENOUGH_TOKENS = 64
COUNT = "Count from {} to {}."
SHORT = "What is the capital of France? Reply with one word."
TIMEOUT_S = 120.0
POLL_S = 0.05
GREEDY = Sampling(temperature=0.0, ignore_eos=True)


class Lacks(Exception):
    """It can't, or breaks the contract: why."""


class Untold(Exception):
    """It can't be told here: why."""


class Answer(NamedTuple):
    """One request's outcome, as the load generator would see it."""

    recorder: RequestRecorder
    finish: Finish
    decoded: Decoded

    @property
    def tokens(self) -> int:
        """What the chunks carry."""
        return sum(self.decoded.tokens_per_chunk)

    @property
    def text(self) -> str:
        return self.decoded.text

    @property
    def usage(self) -> Usage | None:
        return self.finish.usage or self.decoded.usage

    @property
    def reason(self) -> str | None:
        return self.finish.reason or self.decoded.reason


class Reply(NamedTuple):
    """A server's answer to plain fields: its events where it streams, one object where it doesn't."""

    exchange: Exchange
    events: list[dict[str, Any]]
    done: bool

    @property
    def choices(self) -> list[dict[str, Any]]:
        found = [choice for event in self.events for choice in event.get("choices") or []]
        return [choice for choice in found if isinstance(choice, dict)]

    @property
    def text(self) -> str:
        return "".join(str(_said(choice).get("content") or choice.get("text") or "") for choice in self.choices)

    @property
    def reason(self) -> str:
        return next((str(choice["finish_reason"]) for choice in reversed(self.choices) if choice.get("finish_reason")), "")

    @property
    def output_tokens(self) -> int:
        """As usage counts them; 0 without one."""
        counted = [event["usage"] for event in self.events if isinstance(event.get("usage"), dict)]
        return int(counted[-1].get("completion_tokens") or 0) if counted else 0

    def fields(self) -> set[str]:
        """Names of what messages and choices hold besides nothing."""
        held = [*self.choices, *map(_said, self.choices)]
        return {name for each in held for name, value in each.items() if value}


def _said(choice: Mapping[str, Any]) -> dict[str, Any]:
    said = choice.get("delta") or choice.get("message")
    return said if isinstance(said, dict) else {}


class Asked:
    """An engine that was started; `server` where this command started that, too."""

    def __init__(self, engine: Engine, info: EngineInfo, server: Server | None = None) -> None:
        self.engine, self.info, self.server = engine, info, server
        self.remote = hasattr(engine, "exchange")
        self.sampling = GREEDY
        self._sent = 0

    async def settle(self) -> None:
        """Leave out of requests what the server refuses. Raises UserError where even a plain one fails."""
        adapt: Callable[[EngineError], object] = getattr(self.engine, "adapt", lambda _: None)
        for ignore_eos in (True, True, False):
            self.sampling = Sampling(temperature=0.0, ignore_eos=ignore_eos)
            try:
                await self.ask()
            except EngineError as error:
                failed = error
                adapt(error)
                continue
            return
        raise UserError(f"a first request fails: {failed.error_class}: {failed.detail}", "look at the engine's own log")

    async def ask(
        self, prompt: str = "", max_tokens: int = OUTPUT_TOKENS, sampling: Sampling | None = None, recorder: RequestRecorder | None = None
    ) -> Answer:
        """One request by the contract, another prompt each time where none is given. Raises EngineError."""
        number, self._sent = self._sent, self._sent + 1
        text = prompt or COUNT.format(number, number + 20)
        given: dict[str, Any] = {"messages": (Message(role="user", content=text),)} if self.info.api != "completions" else {"prompt": text}
        request = Request(index=number, id=f"check-{number}", max_tokens=max_tokens, sampling=sampling or self.sampling, **given)
        recorder = recorder or RequestRecorder()
        finish = await self.engine.generate(request, recorder)
        answer = Answer(recorder, finish, self.engine.decode(recorder.payloads))
        if answer.decoded.error_class is not None:
            raise EngineError(answer.decoded.error_class, answer.decoded.error_detail)
        return answer

    async def page(self, path: str) -> Exchange:
        """A page of the server. Raises EngineError."""
        exchange: Exchange = await self.engine.exchange(path, {}, {})  # type: ignore[attr-defined]
        return exchange

    async def post(self, prompt: str = SHORT, headers: Mapping[str, str] = {}, **fields: Any) -> Reply:
        """A request of these fields beside the prompt. Raises EngineError where nothing answers."""
        asked = {"prompt": prompt} if self.info.api == "completions" else {"messages": [{"role": "user", "content": prompt}]}
        whole = {**asked, "max_tokens": OUTPUT_TOKENS, "temperature": 0.0, **fields}
        exchange: Exchange = await self.engine.exchange("", whole, headers)  # type: ignore[attr-defined]
        lines = [line[5:].strip() for line in exchange.body.splitlines() if line.startswith(b"data:")]
        events = [value for line in lines or [exchange.body] if isinstance(value := _json(line), dict)]
        return Reply(exchange, events, b"[DONE]" in lines)

    async def taken(self, prompt: str = SHORT, **fields: Any) -> Reply:
        """The same. Raises Lacks where the server refuses the fields."""
        reply = await self.post(prompt, **fields)
        if reply.exchange.status != 200:
            raise Lacks(f"HTTP {reply.exchange.status}")
        return reply

    def stats(self) -> dict[str, float]:
        """Gauges, where there are some."""
        tell: Callable[[], dict[str, float]] = getattr(self.engine, "stats", dict)
        return tell()

    def processes(self) -> list[Any]:
        """Of the engine on this machine, with all that they started; empty for a server elsewhere."""
        if not self.remote:
            roots = [psutil.Process()]
        else:
            places: list[tuple[str, int]] = getattr(self.engine, "addresses", list)()
            ports = {port for host, port in places if host in ("127.0.0.1", "localhost", "::1")}
            listening = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port in ports and one.pid]
            roots = [psutil.Process(pid) for pid in {one.pid for one in listening}]
        return [process for root in roots for process in (root, *root.children(recursive=True))]


async def until(holds: Callable[[], object], within_s: float) -> bool:
    """Whether it comes to hold in time."""
    for _ in range(round(within_s / POLL_S)):
        if holds():
            return True
        await asyncio.sleep(POLL_S)
    return bool(holds())


def _json(data: bytes) -> object:
    try:
        return decode_json(data)
    except (ValueError, msgspec.DecodeError):
        return None
