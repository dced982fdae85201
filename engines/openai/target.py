"""Where requests of the `openai` engine go: an address as people have it, taken apart.

Understood are a server's root, a base address that ends in `/v1` (or another version, as gateways have it), the full address of
an endpoint as pasted from a console, and a query (Azure's `api-version`), which stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, cast
from urllib.parse import SplitResult, quote, urlsplit

from engines.contract import Api, BadOption

DEFAULT_ADDRESS = "http://127.0.0.1:8000"
DEFAULT_ENDPOINT = "/v1/chat/completions"
_ENDPOINT = re.compile(r"/(?:(?P<chat>chat/completions)|(?P<other>completions|responses|embeddings|rerank))$")
_OTHER_ENDPOINT = re.compile(r"/models$|(?<=/v1)/chat$")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.I)
_OWN_VERSION = re.compile(r"/v(?!1$)\d\w*(?:/openai)?$|/deployments/[^/]+$")
_PATH_SAFE = "/%:@!$&'()*+,;=~"
ROLES = ("prefill", "decode", "encode")
_ROLE = re.compile(r"([A-Za-z0-9_-]+)=(.*)")
_PAGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,15}")


class Target(NamedTuple):
    """Where requests go. `authority` is the Host header's value, without user information; `path` holds the query, if any;
    `prefix` is what stands before `/v1`; `models` is the path of the list of models."""

    tls: bool
    host: str
    port: int
    authority: str
    prefix: str
    path: str
    models: str
    api: Api
    userinfo: str
    query: str

    @property
    def name(self) -> str:
        """The base URL, without user information and query."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"

    @property
    def url(self) -> str:
        """The full URL, without user information."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"

    @property
    def metrics(self) -> list[str]:
        """Where the server's page of metrics may be: TensorRT-LLM's is the second."""
        return [f"{self.name}/metrics", f"{self.name}/prometheus/metrics"]


class Address(NamedTuple):
    """A target, and the part that the server plays behind the others where it has a role: no request is sent to it."""

    target: Target
    role: str = ""


def parse_addresses(base_urls: str, endpoint: str = "") -> list[Address]:
    """Of one or several base URLs with blanks between them, each with `ROLE=` before it or not. Raises BadOption."""
    addresses = [_address(text, endpoint) for text in base_urls.split() or [""]]
    kinds = {address.target.api for address in addresses if not address.role}
    if len(kinds) > 1:
        raise BadOption(f"one --base-url takes {' and another '.join(sorted(kinds))}", "say which with --endpoint")
    if not kinds:
        raise BadOption("every --base-url has a role, so that no request is sent to any", "add the router's: --base-url http://HOST:PORT")
    urls = [address.target.url for address in addresses]
    for place, address in enumerate(addresses):
        if urls.index(address.target.url) < place:
            raise BadOption(f"--base-url {address.target.name} is given twice", "remove one of them")
    return addresses


def parse_pages(text: str) -> dict[str, str]:
    """Name to URL of the pages of metrics that a text names, with blanks between them, as NAME=URL; of one without a name "" is it. Raises
    BadOption."""
    pages: dict[str, str] = {}
    for part in text.split():
        match = _ROLE.fullmatch(part)
        name, url = (match[1], match[2]) if match else ("", part)
        if match and not _PAGE_NAME.fullmatch(name):
            raise BadOption(f"--metrics-url has the name {name[:40]!r}", "take small letters, digits and _, at most 16, such as gpu=URL")
        parts, _ = _split(url if _SCHEME.match(url) else f"http://{url}", "--metrics-url")
        if "@" in parts.netloc:
            raise BadOption("--metrics-url has a user or password in it", "give the address alone: no key is sent to it")
        if name in pages:
            raise BadOption(f"--metrics-url has two pages {f'named {name}' if name else 'without a name'}", "give each a name: NAME=URL")
        pages[name] = parts._replace(path=parts.path if parts.path not in ("", "/") else "/metrics", fragment="").geturl()
    return pages


def named(addresses: Sequence[Address]) -> dict[str, Address]:
    """By role, `server` where there is none, numbered where several have the same."""
    roles = [address.role or "server" for address in addresses]
    names = (role if roles.count(role) == 1 else f"{role}_{roles[:place].count(role) + 1}" for place, role in enumerate(roles))
    return dict(zip(names, addresses, strict=True))


def _address(text: str, endpoint: str) -> Address:
    named = _ROLE.fullmatch(text)
    if named is None:
        return Address(parse_target(text, endpoint))
    if named[1] not in ROLES:
        raise BadOption(f"--base-url has the role {named[1]!r}, which is unknown", f"known are {', '.join(ROLES)}")
    return Address(parse_target(named[2], endpoint), named[1])


def parse_target(base_url: str, endpoint: str = "") -> Target:
    """Take a base URL apart; `endpoint` empty is the address' own, or chat completions. Raises BadOption."""
    parts, port = _split(base_url if _SCHEME.match(base_url) else f"http://{base_url}")
    prefix, path, endpoint_query = _paths(parts.path.rstrip("/"), endpoint)
    tls = parts.scheme == "https"
    host = _ascii_host(parts.hostname or "")
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port is None else f"{shown}:{port}"
    query = "&".join(quote(part, safe=f"{_PATH_SAFE}?") for part in (parts.query, endpoint_query) if part)
    tail = f"?{query}" if query else ""
    return Target(
        tls=tls,
        host=host,
        port=port or (443 if tls else 80),
        authority=authority,
        prefix=prefix,
        path=path + tail,
        models=_ENDPOINT.sub("/models", path) + tail,
        api=_api(path),
        userinfo=parts.netloc.rpartition("@")[0],
        query=query,
    )


def _api(path: str) -> Api:
    endpoint = _ENDPOINT.search(path)
    return "chat" if endpoint is None or endpoint["chat"] else cast(Api, endpoint["other"])


def _split(base_url: str, flag: str = "--base-url") -> tuple[SplitResult, int | None]:
    how = "give it as http://HOST:PORT, an IPv6 address in brackets: http://[::1]:8000"
    try:
        parts = urlsplit(base_url)
    except ValueError:
        raise BadOption(f"{flag} is not an address", how) from None
    if parts.scheme not in ("http", "https"):
        raise BadOption(f"{flag} is not an http or https address", how)
    if not parts.hostname or any(char.isspace() or not char.isprintable() for char in base_url):
        raise BadOption(f"{flag} has no host, or a blank in it", how)
    if parts.netloc.rpartition("@")[2].count(":") > 1 and "[" not in parts.netloc:
        raise BadOption(f"{flag} has an IPv6 address without brackets", how)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise BadOption(f"the port in {flag} is not a number from 1 to 65535", how)
    return parts, port


def _ascii_host(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise BadOption("--base-url has an invalid host name", "give it as http://HOST:PORT") from None


def _paths(base: str, endpoint: str) -> tuple[str, str, str]:
    """What stands before the API's root, the path of requests, and the query that came with the endpoint."""
    base = _OTHER_ENDPOINT.sub("", re.sub(r"^//+", "/", base))
    pasted = _ENDPOINT.search(base)
    if pasted and not endpoint:
        return re.sub(r"/v1$", "", base[: pasted.start()]), quote(base, safe=_PATH_SAFE), ""
    if pasted:
        base = base[: pasted.start()]
    path, _, query = (endpoint or DEFAULT_ENDPOINT).partition("?")
    path = path.rstrip("/")
    if not path.startswith("/"):
        raise BadOption(f"endpoint {endpoint!r} is not a path", f"give it as {DEFAULT_ENDPOINT} or /v1/completions")
    if not _ENDPOINT.search(path):
        known = "/v1/completions, /v1/responses, /v1/embeddings or /v1/rerank"
        raise BadOption(f"endpoint {endpoint!r} is none that is known", f"use {DEFAULT_ENDPOINT}, {known}")
    if not endpoint and _OWN_VERSION.search(base):
        path = path.removeprefix("/v1")
    if path.startswith("/v1/"):
        base = base.removesuffix("/v1")
    return base.removesuffix("/v1"), quote(base + path, safe=_PATH_SAFE), query
