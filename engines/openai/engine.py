"""Any OpenAI-compatible server, chat or completions, streaming.

A request's life: encode body → write → raw reads to the recorder → end. What the reads mean is
told by `decode` when the request is over (`openai_decode`). Needs no tokenizer: token counts come
from the server's `usage`, or from the chunks where it sends none, and the result says which.

The key comes from an environment variable or a file, never from a flag, and is in no output.
Where requests go is in `openai_target`, which models there are in `openai_models`, what to do about a refused first request in
`openai_advice`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import msgspec

from engines.chat import folded
from engines.contract import (
    Availability,
    BadOption,
    Decoded,
    EngineError,
    EngineInfo,
    EngineUnavailable,
    Finish,
    Message,
    Model,
    Recorder,
    Request,
    Sampling,
    WeightsKind,
    caught_up,
    parse_options,
)
from engines.credentials import body_secrets, query_secrets, userinfo_secrets
from engines.http.aiohttp_transport import AiohttpTransport
from engines.http.http1 import Head, parse_response
from engines.http.pool import Pool
from engines.http.proxy import Proxy, proxy_for
from engines.openai.advice import LIMIT_FIELDS, fix_for, wants_other_limit
from engines.openai.decode import DONE_EVENT, decode
from engines.openai.gauges import ServerGauges
from engines.openai.headers import json_object, read_key, request_headers
from engines.openai.models import Listing, choose, read_listing
from engines.openai.spoken import spoken
from engines.openai.target import Target, parse_target

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
READY_POLL_S = 0.5
PROBE_TIMEOUT_S = 10.0
UNREACHABLE = ("name_not_found", "connection_refused", "connect_timeout", "tls", "client_limit")
MANY_READS = 8  # tokens from which on the reading thread saves more than it costs
CACHED_PROMPT_CHARS = 4096  # longer ones are encoded each time, so that the cache stays under some megabytes

_SEVERAL = "which makes several responses of one request"
OTHER_TOKENS = {
    **dict.fromkeys(("n", "best_of", "use_beam_search", "num_beams", "beam_width", "num_return_sequences"), _SEVERAL),
    "echo": "which makes the prompt part of the response",
}
"""Fields of a body by which the tokens of a stream are not those of one answer."""


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """Engine options; the command line's `--base-url`, `--endpoint`, `--header` … end up here too."""

    base_url: str = "http://127.0.0.1:8000"
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

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._gauges: ServerGauges | None = None
        self._aiohttp: AiohttpTransport | None = None
        self._proxy: Proxy | None = None
        self._listing = Listing()
        self._secrets: list[str] = []
        self._usage = True
        self._rest_by_sampling: dict[Sampling, bytes] = {}

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
        self._target = target = parse_target(parsed.base_url, parsed.endpoint)
        self._extra = _extra_body(parsed.extra_body)
        self._secrets += [*query_secrets(target.query), *body_secrets(self._extra)]
        self._limit_by(LIMIT_FIELDS[0] if parsed.max_tokens_field == "auto" else parsed.max_tokens_field)
        key = read_key(parsed.api_key_file, parsed.api_key_env)
        headers, secrets = request_headers(parsed.headers, key, target, key_goes_first=bool(parsed.api_key_file))
        self._secrets += secrets
        transport = self._open(parsed, target, headers)
        self._listing = await self._wait_for_models(parsed.ready_timeout_s, named=model is not None)
        self._model_name, max_model_len, note = choose(model, self._listing, target.authority)
        return EngineInfo(
            name="openai",
            device="remote",
            model=self._model_name,
            max_model_len=max_model_len,
            reports=["usage"] if parsed.usage else [],
            notes=[*self._notes(transport), *([note] if note else [])],
        )

    def _open(self, options: Options, target: Target, headers: dict[str, str]) -> str:
        """Make the transport; its name. Raises BadOption for a proxy or CA file that can't be used."""
        self._proxy = None if options.transport == "lean" else proxy_for(target.tls, target.host, target.port)
        transport = "aiohttp" if self._proxy is not None or options.transport == "aiohttp" else "lean"
        tls = _tls_context(options) if target.tls or transport == "aiohttp" else None
        if self._proxy is not None:
            self._secrets += userinfo_secrets(self._proxy.credentials)
        if transport == "aiohttp":
            proxy = None if self._proxy is None else self._proxy.url
            private = bool(self._secrets)
            self._aiohttp = AiohttpTransport(target.url, headers, tls, proxy=proxy, reuse=options.keep_alive, private=private)
        else:
            scheme = "https" if target.tls else "http"
            self._gauges = ServerGauges(f"{scheme}://{target.authority}{target.prefix}/metrics", tls)
        self._pool = Pool(target.host, target.port, tls if target.tls else None, ending=DONE_EVENT, reuse=options.keep_alive)
        self._head_lines = _head_lines(headers if options.keep_alive else headers | {"Connection": "close"})
        self._post_head = b"POST %b HTTP/1.1\r\n%bX-Request-Id: " % (target.path.encode(), self._head_lines)
        return transport

    def _notes(self, transport: str) -> list[str]:
        counted = "the server's usage, chunks where it sends none" if self._options.usage else "chunks (usage is off)"
        notes = [f"token counts from {counted}; no tokenizer needed"]
        if transport == "aiohttp":
            notes.append("aiohttp transport: stamps are taken after its HTTP parser")
        return notes

    async def _wait_for_models(self, ready_timeout_s: float, *, named: bool) -> Listing:
        """Ask for the list of models until the server is up. Where the model is named, any answer will do in the end."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + ready_timeout_s
        while True:
            listing, error = await self._ask_models()
            if error is None:
                return self._usable(listing, named=named)
            if clock() >= deadline:
                if named and error.error_class not in UNREACHABLE:
                    return listing
                raise self._unreachable(listing.problem, error)
            await asyncio.sleep(READY_POLL_S)

    async def _ask_models(self) -> tuple[Listing, EngineError | None]:
        """The list, and why it may be there later."""
        try:
            head, body = await asyncio.wait_for(self._get(self._target.models), PROBE_TIMEOUT_S)
        except TimeoutError:
            problem = f"no answer in {PROBE_TIMEOUT_S:g} s"
            return Listing(problem=problem), EngineError("first_token_timeout", problem)
        except EngineError as error:
            return Listing(problem=f"{error.error_class.replace('_', ' ')}, {error.detail}"), error
        listing = read_listing(head, body)
        return listing, EngineError("http_5xx", listing.problem) if head.status >= 500 else None

    def _usable(self, listing: Listing, *, named: bool) -> Listing:
        """Raises EngineUnavailable where a list is needed and access to it is refused."""
        if named or not listing.problem:
            return listing
        if self._proxy is not None and not listing.moved:  # 407, 404, a page: it may be the proxy's own word
            raise self._unreachable(listing.problem, EngineError("http_4xx", listing.problem))
        if not listing.refused:
            return listing
        given = "the key was refused" if self._secrets else "no key was given"
        raise EngineUnavailable(f"{self._target.authority} refuses access, {given} ({listing.problem})", self._key_fix())

    def _key_fix(self) -> str:
        return f"put the key into the environment variable {self._options.api_key_env} or a file named by --api-key-file"

    async def _get(self, path: str) -> tuple[Head, bytes]:
        if self._aiohttp is not None:
            return await self._aiohttp.get(path)
        assert self._pool is not None
        reads: list[Any] = []
        head = await self._pool.request(b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), self._head_lines), _Collect(reads))
        joined = b"".join(reads)
        response = parse_response(joined)
        assert response is not None
        return head, b"".join(joined[start:end] for start, end in response.spans)

    def _unreachable(self, problem: str, error: EngineError) -> EngineUnavailable:
        """Why the server can't be asked, and the remedy."""
        through = "" if self._proxy is None else f" through {self._proxy.name}"
        fix = "start the server, give its address with --base-url, or wait for it with --ready-check-timeout-sec 120"
        if error.error_class in ("connection_reset", "malformed_stream"):
            fix = "look at what listens there, and check --base-url (http:// or https://?)"
        fix = "raise that limit" if error.error_class == "client_limit" else fix_for(error) or fix
        return EngineUnavailable(f"can't reach {self._target.authority}{through} ({problem})", self._around_proxy() or fix)

    def _around_proxy(self) -> str | None:
        return None if self._proxy is None else f"go around the proxy with no_proxy={self._target.host}, or unset the variable"

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
        sent = {self._limit_field}.union(*map(self._constant_fields, self._rest_by_sampling))
        if fix := fix_for(error, sent, self._extra):
            return fix
        if self._proxy is not None and error.error_class != "error_in_stream":
            return self._around_proxy()
        if "HTTP 401" in error.detail or "HTTP 403" in error.detail:
            return self._key_fix()
        listed = self._listing.models
        if error.error_class == "http_4xx" and listed and self._model_name not in listed:
            return f"check --model: the server lists {', '.join(list(listed)[:5])}"
        return None

    # -- one request ---------------------------------------------------------------

    async def generate(self, request: Request, recorder: Recorder) -> Finish:
        body = self._body(request)
        if self._aiohttp is not None:
            await self._aiohttp.request(body, {"X-Request-Id": request.id}, recorder)
            return _UNKNOWN_FINISH
        assert self._pool is not None
        whole = b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (self._post_head, request.id.encode(), len(body), body)
        await self._pool.request(whole, recorder, many_reads=request.max_tokens >= MANY_READS)
        return _UNKNOWN_FINISH

    def _body(self, request: Request) -> bytes:
        """The JSON body: what differs between requests is put between parts that are encoded once."""
        limit = self._limit % request.max_tokens if self._limit else b""
        rest = self._rest_of_body(request.sampling)
        if not self._target.chat:
            return b'{"prompt":%b,%b%b' % (_encode_prompt(request), limit, rest)
        if request.tools and "tools" not in self._extra:
            limit += b'"tools":%b,' % request.tools.encode()
        return b'{"messages":%b,%b%b' % (_encode_chat(request), limit, rest)

    def _rest_of_body(self, sampling: Sampling) -> bytes:
        rest = self._rest_by_sampling.get(sampling)
        if rest is None:
            rest = self._rest_by_sampling[sampling] = msgspec.json.encode(self._constant_fields(sampling))[1:]
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
        """What the server says of itself on its /metrics page; nothing where it has none."""
        return {} if self._gauges is None else self._gauges.latest()

    def reading_ns(self) -> int:
        """Processor time of the thread that reads answers."""
        return 0 if self._pool is None else self._pool.reading_ns()

    async def close(self) -> None:
        if self._aiohttp is not None:
            await self._aiohttp.close()
        if self._gauges is not None:
            self._gauges.close()
        if self._pool is not None:
            await self._pool.close()


_UNKNOWN_FINISH = Finish()  # how it ended is in the payloads


class _Collect:
    """A recorder that only keeps the bytes; for questions outside the measurement."""

    def __init__(self, reads: list[Any]) -> None:
        self.payloads = reads
        self.chunk = reads.append
        self.catch_up = caught_up

    def sent(self) -> None:
        """Not timed."""

    def lists(self) -> None:
        """Nor compiled."""


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


def _head_lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1", "replace")


@lru_cache(maxsize=1024)
def _encode_messages(messages: tuple[Message, ...]) -> bytes:
    """Cached, since prompts come again."""
    return msgspec.json.encode(messages)


def _encode_chat(request: Request) -> bytes:
    messages = request.messages or (Message(role="user", content=request.prompt or ""),)
    return _encode_messages(messages) if request.text_length() <= CACHED_PROMPT_CHARS else msgspec.json.encode(messages)


def _encode_prompt(request: Request) -> bytes:
    return msgspec.json.encode(request.prompt if request.prompt is not None else _flatten(request))


def _flatten(request: Request) -> str:
    """A chat as plain text, for servers that only complete."""
    plain = folded(request.messages or (), request.tools)
    return "\n\n".join(f"{message.role}: {message.content}" for message in plain) + "\n\nassistant:"
