"""Any OpenAI-compatible server, chat or completions, streaming.

A request's life: encode body → write → raw reads to the recorder → end. What the reads mean is
told by `decode` when the request is over (`openai_decode`). Needs no tokenizer: token counts come
from the server's `usage`, or from the chunks where it sends none, and the result says which.

The key comes from an environment variable or a file, never from a flag, and is in no output.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.request
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

import msgspec

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
from engines.http1 import Head, parse_response
from engines.http_pool import Pool
from engines.openai_decode import DONE_EVENT, classify, decode, excerpt, model_list
from engines.server_gauges import ServerGauges

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
READY_POLL_S = 0.5
PROBE_TIMEOUT_S = 10.0
MANY_READS = 8  # tokens from which on the reading thread saves more than it costs
CACHED_PROMPT_CHARS = 4096  # longer ones are encoded each time, so that the cache stays under some megabytes

SEVERAL_ANSWERS = ("n", "best_of", "use_beam_search", "num_beams", "beam_width", "num_return_sequences")


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """Engine options; the command line's `--base-url`, `--endpoint`, `--header` … end up here too."""

    base_url: str = "http://127.0.0.1:8000"
    endpoint: str = "/v1/chat/completions"
    api_key_env: str = DEFAULT_KEY_ENV
    api_key_file: str = ""
    headers: str = "{}"
    extra_body: str = "{}"
    insecure: bool = False
    ca_file: str = ""
    transport: str = "auto"
    usage: bool = True
    ready_timeout_s: float = 0.0


class Target(NamedTuple):
    """Where requests go. `authority` is the Host header's value, without user information."""

    tls: bool
    host: str
    port: int
    authority: str
    prefix: str
    path: str
    userinfo: str

    @property
    def url(self) -> str:
        """The full URL, without user information."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"


class OpenAIEngine:
    """See the module's text."""

    weights: ClassVar[WeightsKind] = "remote"
    options_type: ClassVar[type[msgspec.Struct]] = Options

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._gauges: ServerGauges | None = None
        self._aiohttp: Any = None
        self._secrets: list[str] = []
        self._usage = True
        self._rest_by_sampling: dict[Sampling, bytes] = {}

    @staticmethod
    def requirements() -> Availability:
        """Always there: it needs only the core packages."""
        from importlib.metadata import version

        return Availability(versions={"aiohttp": version("aiohttp")})

    def secrets(self) -> tuple[str, ...]:
        """The key, header values and URL user information."""
        return tuple(self._secrets)

    # -- start ------------------------------------------------------------------

    async def start(self, model: Model | None, options: Mapping[str, str]) -> EngineInfo:
        self._options = parsed = parse_options(options, Options)
        self._usage = parsed.usage
        self._target = target = parse_target(parsed.base_url, parsed.endpoint)
        headers = self._headers(parsed, target)
        self._chat = target.path.endswith("/chat/completions")
        self._extra = _json_object("extra_body", parsed.extra_body)
        if taken := sorted(self._extra.keys() & {"messages", "prompt", "max_tokens", "stream"}):
            raise BadOption(f"extra_body sets {taken[0]}, which the scenario decides", f"remove {taken[0]} from --extra-body")
        _refuse_several(self._extra)
        tls = _tls_context(parsed) if target.tls else None
        transport = _choose_transport(parsed.transport, target)
        if transport == "aiohttp":
            from engines.http_aiohttp import AiohttpTransport

            self._aiohttp = AiohttpTransport(target.url, headers, tls)
        self._pool = Pool(target.host, target.port, tls, ending=DONE_EVENT)
        if transport == "lean":
            scheme = "https" if target.tls else "http"
            self._gauges = ServerGauges(f"{scheme}://{target.authority}{target.prefix}/metrics", tls)
        self._head_lines = _head_lines(headers)
        self._post_head = b"POST %b HTTP/1.1\r\n%bX-Request-Id: " % (target.path.encode(), self._head_lines)
        names = await self._wait_for_models(parsed.ready_timeout_s)
        self._model_name, max_model_len = _choose_model(model, names, target)
        return EngineInfo(
            name="openai",
            device="remote",
            model=self._model_name,
            max_model_len=max_model_len,
            reports=["usage"] if parsed.usage else [],
            notes=self._notes(transport),
        )

    def _headers(self, options: Options, target: Target) -> dict[str, str]:
        headers = {"Host": target.authority, "Content-Type": "application/json", "Accept": "text/event-stream"}
        headers["Accept-Encoding"] = "identity"
        extra = _json_object("headers", options.headers)
        for name, value in extra.items():
            if any(control in f"{name}{value}" for control in "\r\n\0"):
                raise BadOption(f"header {name!r} has a line break in it", "give headers as NAME: VALUE")
            headers[name] = str(value)
            self._secrets.append(str(value))
        key = _read_key(options)
        if key:
            self._secrets.append(key)
            headers["Authorization"] = f"Bearer {key}"
        elif target.userinfo:
            import base64
            from urllib.parse import unquote

            token = base64.b64encode(unquote(target.userinfo).encode()).decode()
            self._secrets += [target.userinfo, token, *[part for part in unquote(target.userinfo).split(":") if part]]
            headers["Authorization"] = f"Basic {token}"
        return headers

    def _notes(self, transport: str) -> list[str]:
        counted = "the server's usage, chunks where it sends none" if self._options.usage else "chunks (usage is off)"
        notes = [f"token counts from {counted}; no tokenizer needed"]
        if transport == "aiohttp":
            notes.append("aiohttp transport: stamps are taken after its HTTP parser")
        return notes

    async def _wait_for_models(self, ready_timeout_s: float) -> list[tuple[str, int | None]] | None:
        """Ask `/v1/models` until the server is up; None when it has no such page."""
        deadline = asyncio.get_running_loop().time() + ready_timeout_s
        while True:
            try:
                return await asyncio.wait_for(self._ask_models(), PROBE_TIMEOUT_S)
            except (EngineError, TimeoutError) as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise self._unreachable(error) from None
            await asyncio.sleep(READY_POLL_S)

    async def _ask_models(self) -> list[tuple[str, int | None]] | None:
        head, body = await self._get(f"{self._target.prefix}/v1/models")
        if head.status in (404, 405, 501):
            return None
        if head.status >= 500:
            raise EngineError("http_5xx", f"HTTP {head.status}: {excerpt(body)}")
        if head.status != 200:
            raise self._refused(head, body)
        try:
            return list(model_list(body))
        except (ValueError, msgspec.DecodeError):
            what = "HTML" if body.lstrip()[:1] == b"<" else "something that is not a list of models"
            raise EngineUnavailable(
                f"{self._target.authority} is not an OpenAI-compatible server: /v1/models answers with {what}", "check --base-url"
            ) from None

    async def _get(self, path: str) -> tuple[Head, bytes]:
        if self._aiohttp is not None:
            fetched: tuple[Head, bytes] = await self._aiohttp.get(path)
            return fetched
        assert self._pool is not None
        reads: list[Any] = []
        head = await self._pool.request(b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), self._head_lines), _Collect(reads))
        joined = b"".join(reads)
        response = parse_response(joined)
        assert response is not None
        return head, b"".join(joined[start:end] for start, end in response.spans)

    def _unreachable(self, error: Exception) -> EngineUnavailable:
        what = f"{error.error_class.replace('_', ' ')}, {error.detail}" if isinstance(error, EngineError) else "no answer in 10 s"
        fix = "start the server, give its address with --base-url, or wait for it with --ready-check-timeout-sec 120"
        return EngineUnavailable(f"can't reach {self._target.authority} ({what})", fix)

    def _refused(self, head: Head, body: bytes) -> EngineUnavailable:
        found = classify(head, body)
        detail = self._redact(found[1] if found else f"HTTP {head.status}")
        if head.status in (401, 403):
            given = "the key was refused" if self._secrets else "no key was given"
            fix = f"put the key into the environment variable {self._options.api_key_env} or a file named by --api-key-file"
            return EngineUnavailable(f"{self._target.authority} refuses access, {given} ({detail})", fix)
        fix = "follow redirects with --engine-option transport=aiohttp" if 300 <= head.status < 400 else "check --base-url"
        return EngineUnavailable(f"{self._target.authority} does not list its models ({detail})", fix)

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text

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
        kind = b'"messages"' if self._chat else b'"prompt"'
        prompt = _encode_chat(request) if self._chat else _encode_prompt(request)
        return b'{%b:%b,"max_tokens":%d,%b' % (kind, prompt, request.max_tokens, self._rest_of_body(request.sampling))

    def _rest_of_body(self, sampling: Sampling) -> bytes:
        rest = self._rest_by_sampling.get(sampling)
        if rest is None:
            rest = self._rest_by_sampling[sampling] = msgspec.json.encode(self._constant_fields(sampling))[1:]
        return rest

    def _constant_fields(self, sampling: Sampling) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": self._model_name, "stream": True}
        if self._options.usage:
            fields["stream_options"] = {"include_usage": True}
        fields["temperature"] = sampling.temperature
        optional = {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": sampling.seed, "ignore_eos": sampling.ignore_eos or None}
        fields |= {name: value for name, value in optional.items() if value is not None}
        return fields | self._extra

    def decode(self, payloads: Sequence[Any]) -> Decoded:
        return decode(payloads, usage=self._usage)

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


def parse_target(base_url: str, endpoint: str) -> Target:
    """Take a base URL apart. Raises BadOption."""
    parts = urlsplit(base_url if "://" in base_url else f"http://{base_url}")
    try:
        port = parts.port
    except ValueError:
        raise BadOption("the port in --base-url is not a number", "give it as http://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadOption("--base-url is not an http or https address", "give it as http://HOST:PORT")
    if not endpoint.startswith("/"):
        raise BadOption(f"endpoint {endpoint!r} is not a path", "give it as /v1/chat/completions or /v1/completions")
    if not endpoint.endswith(("/chat/completions", "/completions")):
        raise BadOption(f"endpoint {endpoint!r} is neither chat nor completions", "use /v1/chat/completions or /v1/completions")
    prefix = parts.path.rstrip("/")
    prefix = prefix.removesuffix("/v1")
    tls = parts.scheme == "https"
    host = parts.hostname
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port is None else f"{shown}:{port}"
    userinfo = parts.netloc.rpartition("@")[0]
    return Target(tls, host, port or (443 if tls else 80), authority, prefix, prefix + endpoint, userinfo)


def _read_key(options: Options) -> str:
    if not options.api_key_file:
        return os.environ.get(options.api_key_env, "").strip()
    try:
        with open(options.api_key_file, encoding="utf-8") as file:
            key = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadOption(f"can't read the key file: {getattr(error, 'strerror', None) or 'not text'}", "check --api-key-file") from None
    if not key or len(key.split()) != 1:
        raise BadOption("the key file does not hold one key", "put the key alone into the file")
    return key


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BadOption(f"{name} is not JSON: {error}", f"give {name} as a JSON object") from None
    if not isinstance(value, dict):
        raise BadOption(f"{name} is not a JSON object", f"give {name} as a JSON object")
    return value


def _refuse_several(body: Mapping[str, Any]) -> None:
    """One request is one answer here: the tokens of several would be taken for one's. Raises BadOption."""
    for name in SEVERAL_ANSWERS:
        value = body.get(name)
        if value is True or value not in (None, 0, 1):
            raise BadOption(f"extra_body sets {name}, which makes several answers of one request", f"remove {name} from --extra-body")


def _tls_context(options: Options) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file or None)
    except (OSError, ssl.SSLError):
        raise BadOption("the CA file can't be read", "give a PEM file with --engine-option ca_file=FILE") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _choose_transport(asked: str, target: Target) -> str:
    if asked not in ("auto", "lean", "aiohttp"):
        raise BadOption(f"transport {asked!r} is unknown", "use auto, lean or aiohttp")
    if asked != "auto":
        return asked
    proxied = ("https" if target.tls else "http") in urllib.request.getproxies() and not urllib.request.proxy_bypass(target.host)
    return "aiohttp" if proxied else "lean"


def _head_lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1", "replace")


def _choose_model(model: Model | None, served: list[tuple[str, int | None]] | None, target: Target) -> tuple[str, int | None]:
    names = dict(served or [])
    if model is None:
        if not names:
            raise EngineUnavailable(f"{target.authority} does not say which models it serves", "name one with --model")
        name = next(iter(names))
        return name, names[name]
    if names and model.name not in names:
        raise EngineUnavailable(f"{target.authority} does not serve the model '{model.name}'", f"it serves: {', '.join(list(names)[:5])}")
    return model.name, names.get(model.name)


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
    return "\n\n".join(f"{message.role}: {message.content}" for message in request.messages or ()) + "\n\nassistant:"
