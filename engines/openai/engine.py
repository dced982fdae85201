"""Any OpenAI-compatible server: chat, completions and responses, streaming; embeddings and rerank.

A request's life: encode body (`bodies`) → write → raw reads to the recorder → end. What the reads mean is
told when the request is over (`decode`, `responses`, `outputs`). Needs no tokenizer: token counts come
from the server's `usage`, or from the chunks where it sends none, and the result says which.

The key comes from an environment variable or a file, never from a flag, and is in no output.
How an address is reached is in `endpoint`, what its text means in `target`, which models there are in `models`, what to do about a refused
first request in `advice`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit
from zlib import crc32

import msgspec

from engines.contract import (
    Api,
    Availability,
    BadOption,
    Counted,
    Decoded,
    EngineError,
    EngineInfo,
    EngineUnavailable,
    Exchange,
    Finish,
    Input,
    Message,
    Model,
    Recorder,
    Request,
    WeightsKind,
    parse_options,
)
from engines.credentials import body_secrets, query_secrets
from engines.openai.advice import CHAT_LIMITS, fix_for, refuses_ids, wants_other_limit, wants_texts
from engines.openai.bodies import LIMIT_FIELDS, Bodies, check_extra
from engines.openai.decode import decode
from engines.openai.endpoint import Endpoint
from engines.openai.headers import ID_HEADER, OWN_ID_HEADER, json_object, read_key, request_headers
from engines.openai.models import choose
from engines.openai.outputs import OutputsDecoder
from engines.openai.responses import decode_responses, spoken_in
from engines.openai.scraper import Scraper
from engines.openai.spoken import spoken
from engines.openai.target import DEFAULT_ADDRESS, Address, Target, named, parse_addresses, parse_pages

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
ACCEPTS: dict[Api, list[Input]] = {
    "chat": ["images"],
    "responses": ["images"],
    "completions": ["token_ids"],
    "embeddings": ["token_ids"],
}


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """Engine options; the command line's `--base-url`, `--endpoint`, `--header` … end up here too. `base_url` is one address or several,
    with blanks between them, as is `metrics_url`. With a `trace_key` every request has a traceparent made from it and its id."""

    base_url: str = DEFAULT_ADDRESS
    metrics_url: str = ""
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
    documents_field: Literal["auto", "documents", "texts"] = "auto"
    request_id_header: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]+\Z")] = ID_HEADER
    ready_timeout_s: float = 0.0
    trace_key: str = ""


class OpenAIEngine:
    """See the module's text."""

    weights: ClassVar[WeightsKind] = "remote"
    options_type: ClassVar[type[msgspec.Struct]] = Options
    takes: ClassVar[frozenset[str]] = frozenset(("priority", "headers", "model"))

    def __init__(self) -> None:
        self._endpoints: list[Endpoint] = []
        self._pages: dict[str, Scraper] = {}
        self._secrets: list[str] = []
        self._bodies: Bodies | None = None
        self._decode: Callable[[Sequence[Any]], Decoded] = decode

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
        addresses = named(parse_addresses(parsed.base_url, parsed.endpoint))
        self._extra = _extra_body(parsed.extra_body)
        self._secrets += body_secrets(self._extra)
        await self.close()  # of a start that failed
        self._endpoints = [self._endpoint(address.target) for address in addresses.values() if not address.role]
        self._target, self._single = self._endpoints[0].target, len(self._endpoints) == 1
        required = self._take_pages(addresses, parse_pages(parsed.metrics_url))
        for endpoint in self._endpoints:
            await endpoint.find_models(parsed.ready_timeout_s, named=model is not None)
        for name, flag in required.items():
            await asyncio.to_thread(_check_page, self._pages[name], flag)
        self._model_name, max_model_len, note = choose(model, self._endpoints[0].listing, self._target.authority)
        self._bodies, self._decode = self._bodies_for(parsed), _decoder(self._target.api, usage=parsed.usage)
        return EngineInfo(
            name="openai",
            device="remote",
            model=self._model_name,
            max_model_len=max_model_len,
            api=self._target.api,
            reports=["usage"] if parsed.usage else [],
            accepts=ACCEPTS.get(self._target.api, []),
            notes=[*self._notes(), *([note] if note else [])],
        )

    def _endpoint(self, target: Target) -> Endpoint:
        """Raises BadOption."""
        options = self._options
        key = read_key(options.api_key_file, options.api_key_env)
        headers, secrets = request_headers(options.headers, key, target, key_goes_first=bool(options.api_key_file))
        self._secrets += [*query_secrets(target.query), *secrets]
        keyed, tls = bool(self._secrets), partial(_tls_context, options)
        more: dict[str, Any] = {"reuse": options.keep_alive, "keyed": keyed, "key_fix": self._key_fix(), "trace_key": options.trace_key}
        endpoint = Endpoint(target, headers, tls, options.transport, **more, id_header=options.request_id_header)
        self._secrets += endpoint.secrets
        return endpoint

    def _take_pages(self, addresses: Mapping[str, Address], pages: Mapping[str, str]) -> dict[str, str]:
        """Those of the servers, "" of a single one, and those that have a name of their own; by name the flag of each that must be there.
        Raises BadOption."""
        names = [name for name, address in addresses.items() if not address.role]
        own = {"" if self._single else name: endpoint.scraper for name, endpoint in zip(names, self._endpoints, strict=True)}
        self._pages = {name: scraper for name, scraper in own.items() if scraper is not None}
        roles = {name: address.target.metrics for name, address in addresses.items() if address.role}
        if "" in pages and not self._single:
            raise BadOption("--metrics-url has no name, and there are several servers", "give it one: --metrics-url NAME=URL")
        if taken := {*names, *roles} & {*pages}:
            raise BadOption(f"--metrics-url has the name {min(taken)!r}, which a --base-url has", "give it another one")
        for name, urls in {**roles, **{name: [url] for name, url in pages.items()}}.items():
            self._secrets += query_secrets(urlsplit(urls[0]).query)
            self._pages[name] = Scraper(urls, _tls_context(self._options) if urls[0].startswith("https:") else None)
        return {name: f"--base-url {addresses[name].role}=…" for name in roles} | dict.fromkeys(pages, "--metrics-url")

    def _notes(self) -> list[str]:
        counted = "the server's usage, chunks where it sends none" if self._options.usage else "chunks (usage is off)"
        counted = counted if self._target.api in LIMIT_FIELDS else "the server's usage, where it sends one"
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

    def _bodies_for(self, options: Options) -> Bodies:
        api, given = self._target.api, options.max_tokens_field
        return Bodies(
            api,
            self._model_name,
            self._extra,
            usage=options.usage,
            limit_field=given if given != "auto" and api in ("chat", "completions") else LIMIT_FIELDS.get(api, ""),
            documents_field="documents" if options.documents_field == "auto" else options.documents_field,
        )

    # -- a first request that is refused ------------------------------------------

    def adapt(self, error: EngineError) -> dict[str, str]:
        """Change what a refused first request had wrong, where the meaning stays; the options that say so, or none."""
        assert self._bodies is not None
        options, api = self._options, self._target.api
        if api == "rerank" and options.documents_field == "auto" and wants_texts(error):
            self._options = msgspec.structs.replace(options, documents_field="texts")
            self._bodies = self._bodies_for(self._options)
            return {"documents_field": "texts"}
        if refuses_ids(error) and options.request_id_header == ID_HEADER:
            self._options = msgspec.structs.replace(options, request_id_header=OWN_ID_HEADER)
            for endpoint in self._endpoints:
                endpoint.name_ids(OWN_ID_HEADER)
            return {"request_id_header": OWN_ID_HEADER}
        if options.max_tokens_field != "auto" or api != "chat" or self._bodies.limit_field != CHAT_LIMITS[0]:
            return {}
        other = wants_other_limit(error, CHAT_LIMITS[0])
        if other is None:
            return {}
        self._bodies.limit_by(other)
        return {"max_tokens_field": other}

    def advise(self, error: EngineError) -> str | None:
        """The remedy for a first request that failed; None where nothing special is known."""
        if fix := fix_for(error, self._bodies.fields() if self._bodies else (), self._extra):
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
        assert self._bodies is not None
        await endpoint.send(request, self._bodies.of(request), recorder)
        return _UNKNOWN_FINISH

    async def exchange(self, path: str, fields: Mapping[str, object], headers: Mapping[str, str]) -> Exchange:
        """As the contract says: fields go to the endpoint, with the model and what --extra-body says; a page is of the first server."""
        assert self._bodies is not None
        whole = {"model": self._model_name, **self._extra, **fields}
        if "max_tokens" in whole:
            whole[self._bodies.limit_field] = whole.pop("max_tokens")
        return await self._endpoints[0].exchange(path, msgspec.json.encode(whole) if fields else b"", headers)

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

    def decode(self, payloads: Sequence[Any]) -> Decoded:
        return self._decode(payloads)

    def spoken(self, payloads: Sequence[Any], text: str) -> Message:
        """What of an answer continues a chat."""
        return spoken_in(payloads) if self._target.api == "responses" else spoken(payloads, text)

    def stats(self) -> dict[str, float]:
        """What the servers say of themselves on their pages of metrics, under their roles or numbers; of a single one without."""
        return {f"{name}_{gauge}" if name else gauge: value for name, page in self._pages.items() for gauge, value in page.latest().items()}

    def addresses(self) -> list[tuple[str, int]]:
        """Of the servers that requests go to, without a proxy between."""
        return [(endpoint.target.host, endpoint.target.port) for endpoint in self._endpoints if endpoint.around_proxy() is None]

    async def counted(self) -> dict[str, Counted]:
        """As the contract says."""
        told = await asyncio.gather(*(asyncio.to_thread(page.counted) for page in self._pages.values()))
        return dict(zip(self._pages, told, strict=True))

    def reading_ns(self) -> int:
        """Processor time of the threads that read answers."""
        return sum(endpoint.reading_ns() for endpoint in self._endpoints)

    async def close(self) -> None:
        for page in self._pages.values():
            page.close()
        for endpoint in self._endpoints:
            await endpoint.close()


_UNKNOWN_FINISH = Finish()  # how it ended is in the payloads


# -- options -------------------------------------------------------------------------


def _check_page(page: Scraper, flag: str) -> None:
    """Raises EngineUnavailable where there is none."""
    answer = page.ask()
    if not answer.page:
        raise EngineUnavailable(f"no metrics at {page.url} ({answer.problem})", f"check {flag}, or leave it out")


def _extra_body(text: str) -> dict[str, object]:
    extra = json_object("extra_body", text)
    check_extra(extra)
    return extra


def _decoder(api: Api, *, usage: bool) -> Callable[[Sequence[Any]], Decoded]:
    """What tells the meaning of the payloads."""
    if api in ("embeddings", "rerank"):
        return OutputsDecoder()
    return partial(decode_responses if api == "responses" else decode, usage=usage)


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
