"""What every request of the `openai` engine carries in its head, and which of it is secret.

The key comes from an environment variable or a file, never from a flag. A header that the user gives replaces ours of the same
name, the environment's key too: gateways want keys under names of their own.
"""

from __future__ import annotations

import base64
import os
import stat
from urllib.parse import unquote

from engines.contract import BadOption
from engines.credentials import userinfo_secrets
from engines.openai.target import Target
from engines.untrusted import UntrustedJson, decode_json

MAX_KEY_BYTES = 64 * 1024


def request_headers(given: str, key: str, target: Target, *, key_goes_first: bool) -> tuple[dict[str, str], list[str]]:
    """Every header, and the secrets among them. `given` is a JSON object of the user's own; a key that goes first replaces even an
    Authorization among these. Raises BadOption."""
    extra = {str(name): str(value) for name, value in json_object("headers", given).items()}
    for name, value in extra.items():
        if any(control in f"{name}{value}" for control in "\r\n\0"):
            raise BadOption(f"header {name!r} has a line break in it", "give headers as NAME: VALUE")
    ours = {
        "Host": target.authority,
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        "User-Agent": "bytemlperf-llm",  # some gateways refuse who has no name
    }
    authorization, secrets = _authorization(key, target)
    layers = (extra, authorization) if key_goes_first and key else (authorization, extra)
    return _over(_over(ours, layers[0]), layers[1]), [*extra.values(), *secrets]


def _over(headers: dict[str, str], others: dict[str, str]) -> dict[str, str]:
    """Both, the others' where they have the same name."""
    names = {name.lower() for name in others}
    return {name: value for name, value in headers.items() if name.lower() not in names} | others


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
