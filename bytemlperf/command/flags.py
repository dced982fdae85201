"""Options that take `name=value` pairs."""

from __future__ import annotations

from collections.abc import Iterable

from bytemlperf.errors import UserError


def pairs(flag: str, texts: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE texts of a repeatable flag. Raises UserError for one that is none."""
    return dict(_pair(flag, text) for text in texts)


def _pair(flag: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{flag} {text!r} is not KEY=VALUE", f"give it as {flag} KEY=VALUE")
    return key, value
