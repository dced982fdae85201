"""Keeping secrets out of every output: one redactor that knows them, applied where text leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable

REDACTED = "[redacted]"
MIN_SECRET_CHARS = 4  # shorter ones would blank out ordinary words
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_FLAGS = ("--header", "-H")


class Redactor:
    """Replaces known secrets, and user information in URLs, wherever they stand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Learn more secrets; longest first, so that one inside another leaves nothing behind."""
        known = {*self._secrets, *(secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS)}
        self._secrets = sorted(known, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return _USERINFO.sub(f"{REDACTED}@", text)

    def deep(self, value: object) -> object:
        """The same structure with every string redacted, keys too."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(str(key)): self.deep(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.deep(item) for item in value]
        return value

    def command(self, argv: list[str]) -> list[str]:
        """A command line to print: header values are left out altogether."""
        shown: list[str] = []
        for word in argv:
            if (shown and shown[-1] in _SECRET_FLAGS) or word.startswith("--header="):
                shown.append(f"{word.partition(':')[0]}: {REDACTED}")
            else:
                shown.append(self(word))
        return shown
