"""What of a header, an address or a request body is a secret, and the forms in which a secret may come back.

Pure functions. A server may echo what it was sent: with or without `Bearer`, percent-encoded, escaped for JSON or HTML. So
whoever redacts must know every form (`forms_of`), and the parts of an address or body that hold secrets.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, quote, quote_plus, unquote

SECRET_NAME = re.compile(
    r"(?:api|access|secret|private|auth|subscription|account|session|app|client|bearer|refresh|id|security|sas|user|master|service|signing)"
    r"[-_.]?(?:key|token|secret|id_token)$|^(?:x[-_])?(?:key|token|code|auth|sig|jwt|pat)$"
    r"|secret|passw|passphrase|^pwd$|credential|authorization|bearer|signature|cookie|api[-_]?key"
    r"|(?<!stop)(?<!eos)(?<!bos)(?<!pad)(?<!unk)(?<!max)(?<!min)(?<!end)[-_]token$",
    re.I,
)
"""Names of query parameters, and of keys in a request body, whose values are secrets."""

SECRET_VALUE = re.compile(
    r"^(?:(?:sk|pk|rk|hf|gsk|xai|nvapi|ghp|gho|xox[abp]|r8|fw|pplx|csk|AIza|AKIA|eyJ)[-_A-Za-z0-9.]{12,}|bearer\s+\S+)$", re.I
)
"""Values that are keys whatever their name: the prefixes of the large providers, and bearer tokens."""

HARMLESS_PARAMETERS = frozenset(("api-version", "api_version", "version", "deployment", "model", "region", "stream", "beta"))
"""Query parameters of an API's address that are shown. Any other may be its key."""

MIN_FORM_CHARS = 4
MIN_PART_CHARS = 8  # of what is only taken out of a header's value by its place there
_SCHEMES = "bearer|basic|token|api-?key|key|jwt|oauth|digest|negotiate|bot|splunk|sso-key"
_SCHEME = re.compile(rf"^(?:(?:{_SCHEMES})\s+(\S.*)|[A-Za-z][\w.-]*\s+(\S{{16,}}))$", re.I)
_PAIR = re.compile(r"(?:^|[;,\s])[\w.-]+=\"?([^;,\s\"]+)")


def forms_of(secret: str) -> Iterator[str]:
    """The secret, itself without its scheme (`Bearer`, `Basic`, …), what `Basic` encodes, and each as a server may escape it or
    encode it in base64."""
    for plain in _plain_forms(secret.strip()):
        yield plain
        yield from {quote(plain, safe=""), quote(plain), quote_plus(plain), json.dumps(plain)[1:-1], html.escape(plain)} - {plain}
        yield from {plain.replace("/", "\\/")} - {plain}
        yield base64.b64encode(plain.encode()).decode().rstrip("=")


def _plain_forms(secret: str) -> Iterator[str]:
    yield secret
    yield from (value for value in _PAIR.findall(secret) if len(value) >= MIN_PART_CHARS)  # a cookie's, a signature's
    with_scheme = _SCHEME.match(secret)
    if with_scheme is None:
        return
    token = (with_scheme[1] or with_scheme[2]).strip()
    yield token
    if secret.lower().startswith("basic"):
        try:
            yield from userinfo_secrets(base64.b64decode(token, validate=True).decode())
        except (binascii.Error, UnicodeDecodeError):
            return


def userinfo_secrets(userinfo: str) -> Iterator[str]:
    """`user:password` of an address or of Basic authorization: whole, and its two parts."""
    for text in dict.fromkeys((userinfo, unquote(userinfo))) if userinfo else ():
        yield text
        yield from (part for part in text.split(":", 1) if part)


def query_secrets(query: str) -> Iterator[str]:
    """Values of an API address's query that may be its key."""
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower() not in HARMLESS_PARAMETERS and value:
            yield value


def body_secrets(value: object, name: str = "") -> Iterator[str]:
    """Texts of a JSON value that are secrets, by their key's name or by their look."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from body_secrets(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from body_secrets(item, name)
    elif isinstance(value, str) and (SECRET_NAME.search(name) or SECRET_VALUE.match(value)):
        yield value


def all_forms(secrets: Iterable[str]) -> set[str]:
    """Every form of every secret that is long enough to be told from ordinary words."""
    return {form for secret in secrets for form in forms_of(secret) if len(form) >= MIN_FORM_CHARS}
