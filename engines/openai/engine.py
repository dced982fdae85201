"""Any OpenAI-compatible server, chat or completions, streaming.

A request's life: encode body → write → raw reads to the recorder → end. What the reads mean is
told by `decode` when the request is over. Needs no tokenizer: token counts come
from the server's `usage`, or from the chunks where it sends none, and the result says which.

The key comes from an environment variable or a file, never from a flag, and is in no output.
How an address is reached is in `endpoint`, what its text means in `target`, which models there are in `models`, what to do about a refused
first request in `advice`.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal
from zlib import crc32

import msgspec

from engines.chat import folded
from engines.contract import (
    Availability,
    BadOption,
    Decoded,
    EngineError,
    EngineInfo,
    Finish,
    Message,
    Model,
    Recorder,
    Request,
    Sampling,
    TrafficClass,
    WeightsKind,
    parse_options,
)
from engines.credentials import body_secrets, query_secrets
from engines.openai.advice import LIMIT_FIELDS, fix_for, wants_other_limit
from engines.openai.decode import decode
from engines.openai.endpoint import Endpoint
from engines.openai.headers import json_object, read_key, request_headers
from engines.openai.models import choose
from engines.openai.spoken import spoken
from engines.openai.target import DEFAULT_ADDRESS, Target, named, parse_addresses

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
CACHED_PROMPT_CHARS = 4096  # longer ones are encoded each time, so that the cache stays under some megabytes

_SEVERAL = "which makes several responses of one request"
OTHER_TOKENS = {
    **dict.fromkeys(("n", "best_of", "use_beam_search", "num_beams", "beam_width", "num_return_sequences"), _SEVERAL),
    "echo": "which makes the prompt part of the response",
}
"""Fields of a body by which the tokens of a stream are not those of one answer."""


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """Engine options; the command line's `--base-url`, `--endpoint`, `--header` … end up here too. `base_url` is one address or several,
    with blanks between them."""

    base_url: str = DEFAULT_ADDRESS
    route: Literal["round-robin", "session"] = "round-robin"
    endpoint: str = ""
    api_key_env: str = DEFAULT_KEY_ENV
    api_key_file: str = ""
    headers: str = "{}"
    extra_body: str = "{}"
    insecure: bool = False
    ca_file: str = ""
    transport: Literal["auto", "lean", "aiohttp"] = "auto"
    usage: bool = True
    keep_alive: bool = True
    max_tokens_field: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    ready_timeout_s: float = 0.0


class OpenAIEngine:
    """See the module's text."""

    weights: ClassVar[WeightsKind] = "remote"
    options_type: ClassVar[type[msgspec.Struct]] = Options
    takes: ClassVar[frozenset[str]] = frozenset(("priority", "headers", "model"))

    def __init__(self) -> None:
        self._servers: dict[str, Endpoint] = {}
        self._endpoints: list[Endpoint] = []  # those that requests are sent to
        self._secrets: list[str] = []
        self._usage = True
        self._rests: dict[object, bytes] = {}
        self._sent_fields: set[str] = set()

    @staticmethod
    def requirements() -> Availability:
        """Always there: it needs only the core packages."""
        from importlib.metadata import version

        return Availability(versions={"aiohttp": version("aiohttp")})

    def secrets(self) -> tuple[str, ...]:
        """The key, header values, and what is secret in the address, the request body and a proxy's address."""
        return tuple(self._secrets)

    # -- start ------------------------------------------------------------------

    async def start(self, model: Model | None, options: Mapping[str, str]) -> EngineInfo:
        self._options = parsed = parse_options(options, Options)
        self._usage = parsed.usage
        addresses = parse_addresses(parsed.base_url, parsed.endpoint)
        self._extra = _extra_body(parsed.extra_body)
        self._secrets += body_secrets(self._extra)
        self._limit_by(LIMIT_FIELDS[0] if parsed.max_tokens_field == "auto" else parsed.max_tokens_field)
        for name, address in named(addresses).items():
            self._servers[name] = self._endpoint(address.target)
            if not address.role:
                self._endpoints.append(self._servers[name])
        self._target, self._single = self._endpoints[0].target, len(self._endpoints) == 1
        for name, server in self._servers.items():
            if server in self._endpoints:
                await server.find_models(parsed.ready_timeout_s, named=model is not None)
            else:
                await server.find_metrics(name)
        self._model_name, max_model_len, note = choose(model, self._endpoints[0].listing, self._target.authority)
        return EngineInfo(
            name="openai",
            device="remote",
            model=self._model_name,
            max_model_len=max_model_len,
            reports=["usage"] if parsed.usage else [],
            notes=[*self._notes(), *([note] if note else [])],
        )

    def _endpoint(self, target: Target) -> Endpoint:
        """Raises BadOption."""
        options = self._options
        key = read_key(options.api_key_file, options.api_key_env)
        headers, secrets = request_headers(options.headers, key, target, key_goes_first=bool(options.api_key_file))
        self._secrets += [*query_secrets(target.query), *secrets]
        keyed, tls = bool(self._secrets), partial(_tls_context, options)
        endpoint = Endpoint(target, headers, tls, options.transport, reuse=options.keep_alive, keyed=keyed, key_fix=self._key_fix())
        self._secrets += endpoint.secrets
        return endpoint

    def _notes(self) -> list[str]:
        counted = "the server's usage, chunks where it sends none" if self._options.usage else "chunks (usage is off)"
        notes = [f"token counts from {counted}; no tokenizer needed"]
        if any(endpoint.transport == "aiohttp" for endpoint in self._endpoints):
            notes.append("aiohttp transport: stamps are taken after its HTTP parser")
        if len(self._endpoints) > 1:
            turns = "sessions keep theirs" if self._options.route == "session" else "in turn"
            notes.append(f"{len(self._endpoints)} endpoints, {turns}: {', '.join(each.target.name for each in self._endpoints)}")
        return notes

    def _key_fix(self) -> str:
        return f"put the key into the environment variable {self._options.api_key_env} or a file named by --api-key-file"

    async def reset_cache(self) -> str:
        """As the contract says; where there are several servers, of all of them."""
        calls = [await endpoint.reset_cache() for endpoint in self._endpoints]
        return calls[0] if all(calls) else ""

    def _limit_by(self, field: str) -> None:
        """The longest answer goes by this name; by none where the user's own body has one."""
        self._limit_field = field
        self._limit = b"" if LIMIT_FIELDS[1] in self._extra else b'"%b":%%d,' % field.encode()

    # -- a first request that is refused ------------------------------------------

    def adapt(self, error: EngineError) -> dict[str, str]:
        """Change what a refused first request had wrong, where the meaning stays; the options that say so, or none."""
        if self._options.max_tokens_field != "auto" or not self._target.chat:
            return {}
        other = wants_other_limit(error, self._limit_field)
        if other is None or self._limit_field != LIMIT_FIELDS[0]:
            return {}
        self._limit_by(other)
        return {"max_tokens_field": other}

    def advise(self, error: EngineError) -> str | None:
        """The remedy for a first request that failed; None where nothing special is known."""
        sent = {self._limit_field} | self._sent_fields
        if fix := fix_for(error, sent, self._extra):
            return fix
        if error.error_class != "error_in_stream" and (around := self._endpoints[0].around_proxy()):
            return around
        if "HTTP 401" in error.detail or "HTTP 403" in error.detail:
            return self._key_fix()
        listed = self._endpoints[0].listing.models
        if error.error_class == "http_4xx" and listed and self._model_name not in listed:
            return f"check --model: the server lists {', '.join(list(listed)[:5])}"
        return None

    # -- one request ---------------------------------------------------------------

    async def generate(self, request: Request, recorder: Recorder) -> Finish:
        endpoint = self._endpoints[0] if self._single else self._endpoint_of(request)
        await endpoint.send(request, self._body(request), recorder)
        return _UNKNOWN_FINISH

    def _endpoint_of(self, request: Request) -> Endpoint:
        """In turn by the place in the schedule, or the same for a whole session: whatever was sent before, by any number of workers."""
        session = request.session if self._options.route == "session" else None
        number = request.index if session is None else crc32(session.encode())
        return self._endpoints[number % len(self._endpoints)]

    def endpoints(self) -> int:
        """How many places requests go to."""
        return len(self._endpoints)

    def endpoint_of(self, request: Request) -> str | None:
        """Where it goes; None where there is one place."""
        return None if self._single else self._endpoint_of(request).target.name

    def _body(self, request: Request) -> bytes:
        """The JSON body: what differs between requests is put between parts that are encoded once."""
        limit = self._limit % request.max_tokens if self._limit else b""
        rest = self._rest_of_body(request)
        if not self._target.chat:
            return b'{"prompt":%b,%b%b' % (_encode_prompt(request), limit, rest)
        if request.tools and "tools" not in self._extra:
            limit += b'"tools":%b,' % request.tools.encode()
        return b'{"messages":%b,%b%b' % (_encode_chat(request), limit, rest)

    def _rest_of_body(self, request: Request) -> bytes:
        """What requests of the same sampling and class have in common."""
        key = request.sampling if request.traffic_class is None else (request.sampling, request.traffic_class.name)
        rest = self._rests.get(key)
        if rest is None:
            fields = self._constant_fields(request.sampling) | _class_fields(request.traffic_class)
            self._sent_fields |= fields.keys()
            rest = self._rests[key] = msgspec.json.encode(fields)[1:]
        return rest

    def _constant_fields(self, sampling: Sampling) -> dict[str, object]:
        fields: dict[str, object] = {"model": self._model_name, "stream": True}
        if self._options.usage:
            fields["stream_options"] = {"include_usage": True}
        fields["temperature"] = sampling.temperature
        optional = {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": sampling.seed, "ignore_eos": sampling.ignore_eos or None}
        fields |= {name: value for name, value in optional.items() if value is not None}
        return fields | self._extra

    def decode(self, payloads: Sequence[Any]) -> Decoded:
        return decode(payloads, usage=self._usage)

    def spoken(self, payloads: Sequence[Any], text: str) -> Message:
        """What of an answer continues a chat."""
        return spoken(payloads, text)

    def stats(self) -> dict[str, float]:
        """What the servers say of themselves on their /metrics pages; where there are several, each under its role, or its number."""
        if len(self._servers) == 1:
            return self._endpoints[0].stats()
        return {f"{name}_{gauge}": value for name, server in self._servers.items() for gauge, value in server.stats().items()}

    async def prefix_counts(self) -> tuple[int, int] | None:
        """As the contract says; where there are several servers, of all of them."""
        counts = [await endpoint.prefix_counts() for endpoint in self._endpoints]
        known = [each for each in counts if each is not None]
        return (sum(each[0] for each in known), sum(each[1] for each in known)) if len(known) == len(counts) else None

    def reading_ns(self) -> int:
        """Processor time of the threads that read answers."""
        return sum(endpoint.reading_ns() for endpoint in self._endpoints)

    async def close(self) -> None:
        for server in self._servers.values():
            await server.close()


_UNKNOWN_FINISH = Finish()  # how it ended is in the payloads


# -- options -------------------------------------------------------------------------


def _extra_body(text: str) -> dict[str, object]:
    extra = json_object("extra_body", text)
    if taken := sorted(extra.keys() & {"messages", "prompt", "max_tokens", "stream"}):
        raise BadOption(f"extra_body sets {taken[0]}, which the scenario sets", f"remove {taken[0]} from --extra-body")
    _refuse_other_tokens(extra)
    return extra


def _refuse_other_tokens(body: Mapping[str, object]) -> None:
    """Raises BadOption where a stream would be more than one answer to its request."""
    for name, why in OTHER_TOKENS.items():
        value = body.get(name)
        if value is True or value not in (None, 0, 1):
            raise BadOption(f"extra_body sets {name}, {why}", f"remove {name} from --extra-body")


def _tls_context(options: Options) -> ssl.SSLContext:
    try:
        if options.ca_file and not stat.S_ISREG(os.stat(options.ca_file).st_mode):
            raise OSError("not a regular file")
        context = ssl.create_default_context(cafile=options.ca_file or None)
    except (OSError, ssl.SSLError):
        raise BadOption("the CA file can't be read", "give a PEM file with --engine-option ca_file=FILE") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _class_fields(traffic_class: TrafficClass | None) -> dict[str, object]:
    """What a class sets in the bodies of its requests."""
    given = {} if traffic_class is None else {"model": traffic_class.model, "priority": traffic_class.priority}
    return {name: value for name, value in given.items() if value is not None}


@lru_cache(maxsize=1024)
def _encode_messages(messages: tuple[Message, ...]) -> bytes:
    """Cached, since prompts come again; those of sessions don't."""
    return msgspec.json.encode(messages)


def _encode_chat(request: Request) -> bytes:
    messages = request.messages or (Message(role="user", content=request.prompt or ""),)
    cached = request.session is None and request.text_length() <= CACHED_PROMPT_CHARS
    return _encode_messages(messages) if cached else msgspec.json.encode(messages)


def _encode_prompt(request: Request) -> bytes:
    return msgspec.json.encode(request.prompt if request.prompt is not None else _flatten(request))


def _flatten(request: Request) -> str:
    """A chat as plain text, for servers that only complete."""
    plain = folded(request.messages or (), request.tools)
    return "\n\n".join(f"{message.role}: {message.content}" for message in plain) + "\n\nassistant:"
