"""What every request of the `openai` engine carries in its head, and which of it is secret.

The key comes from an environment variable or a file, never from a flag. A header that the user gives replaces ours of the same
name, the environment's key too: gateways want keys under names of their own. In a value `{session}`, `{class}` and `{request}` stand for
what a request has.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from urllib.parse import quote, unquote

from engines.contract import PLACEHOLDER, BadOption, Request, check_header
from engines.credentials import userinfo_secrets
from engines.openai.target import Target
from engines.trace_context import traceparent
from engines.untrusted import UntrustedJson, decode_json

MAX_KEY_BYTES = 64 * 1024
ID_HEADER, OWN_ID_HEADER = "X-Request-Id", "X-Bmp-Request-Id"
"""Of a request's id; and a name that no server looks for, where one takes UUIDs alone in the first (llama-cpp-python's)."""
TRACEPARENT = "traceparent"


def request_headers(given: str, key: str, target: Target, *, key_goes_first: bool) -> tuple[dict[str, str], list[str]]:
    """Every header, and the secrets among them. `given` is a JSON object of the user's own; a key that goes first replaces even an
    Authorization among these. Raises BadOption."""
    extra = {str(name): str(value) for name, value in json_object("headers", given).items()}
    for name, value in extra.items():
        check_header(name, value)
    ours = {
        "Host": target.authority,
        "Content-Type": "application/json",
        "Accept": "application/json" if target.api in ("embeddings", "rerank") else "text/event-stream",
        "Accept-Encoding": "identity",
        "User-Agent": "bytemlperf-llm",  # some gateways refuse who has no name
    }
    authorization, secrets = _authorization(key, target)
    layers = (extra, authorization) if key_goes_first and key else (authorization, extra)
    return over(over(ours, layers[0]), layers[1]), [*extra.values(), *secrets]


def over(headers: dict[str, str], others: dict[str, str]) -> dict[str, str]:
    """Both, the others' where they have the same name."""
    names = {name.lower() for name in others}
    return {name: value for name, value in headers.items() if name.lower() not in names} | others


class RequestHead:
    """The head of requests that have the same headers: `post` up to the value of `id_header`, `fixed` headers and their `lines`, and
    `templates`, the headers whose value differs between requests. With a `trace_key` each has a traceparent of its own. `varies` tells
    whether there is `more` of each."""

    def __init__(self, path: str, headers: Mapping[str, str], trace_key: str = "", id_header: str = ID_HEADER) -> None:
        if trace_key:
            headers = {name: value for name, value in headers.items() if name.lower() != TRACEPARENT}
        self._trace_key, self._id_header = trace_key, id_header
        self.templates = {name: value for name, value in headers.items() if PLACEHOLDER.search(value)}
        self.fixed = {name: value for name, value in headers.items() if name not in self.templates}
        self.varies = bool(self.templates or trace_key)
        self.lines = _lines(self.fixed)
        self.post = b"POST %b HTTP/1.1\r\n%b%b: " % (path.encode(), self.lines, id_header.encode())

    def more(self, request: Request) -> bytes:
        """The lines that are this request's own."""
        lines = _lines(self._filled(request)) if self.templates else b""
        return b"%b%b: %b\r\n" % (lines, TRACEPARENT.encode(), self._traceparent(request).encode()) if self._trace_key else lines

    def headers_for(self, request: Request) -> dict[str, str]:
        """All of a request's headers."""
        traced = {TRACEPARENT: self._traceparent(request)} if self._trace_key else {}
        return {**self.fixed, self._id_header: request.id, **self._filled(request), **traced}

    def _traceparent(self, request: Request) -> str:
        return traceparent(self._trace_key, request.id)

    def _filled(self, request: Request) -> dict[str, str]:
        """A request on its own is a session of its own. Ids may come from a stranger's file: what is no plain text is percent-encoded."""
        values = {"session": request.session or request.id, "class": request.class_name or "", "request": request.id}
        safe = {key: quote(value, safe=" !#$&'()*+,/:;=?@[]|~") for key, value in values.items()}
        return {name: PLACEHOLDER.sub(lambda match: safe[match[1]], value) for name, value in self.templates.items()}


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1", "replace")


def _authorization(key: str, target: Target) -> tuple[dict[str, str], list[str]]:
    if key:
        return {"Authorization": f"Bearer {key}"}, [key]
    if not target.userinfo:
        return {}, []
    token = base64.b64encode(unquote(target.userinfo).encode()).decode()
    return {"Authorization": f"Basic {token}"}, [token, *userinfo_secrets(target.userinfo)]


def read_key(path: str, variable: str) -> str:
    """The key from the file, else from the environment; empty without one. Raises BadOption."""
    if not path:
        key = os.environ.get(variable, "").strip()
        return key and _checked(key, f"the environment variable {variable} does")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BadOption("the key file is not a regular file", "check --api-key-file")
        with open(path, "rb") as file:
            text = file.read(MAX_KEY_BYTES).decode()
    except (OSError, ValueError) as error:
        raise BadOption(f"can't read the key file: {getattr(error, 'strerror', None) or 'not text'}", "check --api-key-file") from None
    return _checked(text.strip().removeprefix("\ufeff"), "the key file does")


def _checked(key: str, holder: str) -> str:
    if len(key.split()) != 1 or not key.isprintable() or not key.isascii():
        raise BadOption(f"{holder} not hold one key", "put the key alone there: one word of ASCII characters")
    return key


def json_object(name: str, text: str) -> dict[str, object]:
    """An option that is a JSON object. Raises BadOption."""
    try:
        value = decode_json(text)
    except UntrustedJson as error:
        raise BadOption(f"{name} is not JSON: {error}", f"give {name} as a JSON object") from None
    if not isinstance(value, dict):
        raise BadOption(f"{name} is not a JSON object", f"give {name} as a JSON object")
    return value
