"""Addresses that metrics are sent to: checked, and authorised; small servers whose clients hang up."""

from __future__ import annotations

import os
import socketserver
import sys
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bytemlperf.errors import UserError
from engines.credentials import SECRET_NAME

TIMEOUT_S = 5.0
AUTHORIZATION_VARIABLE = "BMP_PUSH_AUTHORIZATION"
JOB = "bmp"


def checked_url(flag: str, url: str, secret_fix: str = f"set {AUTHORIZATION_VARIABLE} instead") -> str:
    """The address, without a slash at its end. Raises UserError for one that can't be used; `secret_fix` is for one with a secret in it."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises where it is none
    except ValueError:
        raise UserError(f"{flag} is not an address", "give http://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"{flag} takes an http:// or https:// address, not {parts.scheme or 'a text without one'!r}", "give http://HOST:PORT"
        )
    if parts.username is not None or parts.password is not None:
        raise UserError(f"{flag} has credentials in its address, where anyone can see them", secret_fix)
    if secret := next((name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if SECRET_NAME.search(name)), None):
        raise UserError(f"{flag} has {secret!r} in its address, where anyone can see it", secret_fix)
    return url if parts.query else url.rstrip("/")


def below(url: str, path: str) -> str:
    """An address further down than this one; its query stays."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path.rstrip("/") + path, fragment="").geturl()


def authorization() -> dict[str, str]:
    """The Authorization header, where the environment has one."""
    value = os.environ.get(AUTHORIZATION_VARIABLE)
    return {"Authorization": value} if value else {}


def forgive_hang_ups(server: socketserver.BaseServer) -> None:
    """From now on this server reports exceptions of our own alone: for each client that hangs up `socketserver` prints a traceback."""
    report = server.handle_error

    def handle_error(request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            report(request, client_address)

    server.handle_error = handle_error  # type: ignore[method-assign]
