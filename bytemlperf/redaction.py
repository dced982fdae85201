"""Keeping secrets out of every output: one redactor that knows them, applied where text leaves.

A text that a stranger wrote (a server, a proxy, a receiver of metrics) goes through `Redactor.clean` before it is kept or shown
anywhere: secrets out first, then control characters, then cut to length. In another order a key that is cut in two, or has a
control character in its middle, would be no known secret any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from bytemlperf.command.exits import one_line
from engines.credentials import SECRET_NAME, all_forms, body_secrets, query_secrets, userinfo_secrets
from engines.untrusted import UntrustedJson, decode_json, whole_text

REDACTED = "[redacted]"
MAX_FOREIGN_CHARS = 400
MIN_CUT_CHARS = 6  # of a secret's beginning at the end of a text
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_PARAMETER = re.compile(r"([?&]([A-Za-z0-9_.%-]+)=)([^&\s\"'<>#\\]+)")
MIN_CHANGED_CHARS = 12
_GAP = r"(?:\x1b\[[0-9;]*[A-Za-z]|[^!-~])*"
"""Between two characters of a secret that was coloured, wrapped, or broken by characters of no width."""

_SECRET_FLAGS = ("--header", "-H")


class Redactor:
    """Replaces known secrets in every form (`forms_of`), and in any URL user information and parameters with a secret's name."""

    def __init__(self, secrets: Iterable[str] = (), most_chars: int = MAX_FOREIGN_CHARS) -> None:
        self._forms: list[str] = []
        self._changed: re.Pattern[str] | None = None
        self._most_chars = most_chars
        self.add(secrets)

    def copy(self, most_chars: int) -> Redactor:
        """One that knows the same, and cuts a stranger's text to another length."""
        other = Redactor(most_chars=most_chars)
        other._forms, other._changed = self._forms, self._changed
        return other

    def add(self, secrets: Iterable[str]) -> None:
        """Learn more secrets; longest first, so that one inside another leaves nothing behind."""
        self._forms = sorted({*self._forms, *all_forms(secrets)}, key=lambda form: (-len(form), form))
        patterns = [_changed(form) for form in self._forms if len(form) >= MIN_CHANGED_CHARS]
        self._changed = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, REDACTED)
        text = _USERINFO.sub(f"{REDACTED}@", text)
        return _PARAMETER.sub(_parameter, text) if "=" in text else text

    def clean(self, text: str, most_chars: int | None = None) -> str:
        """A stranger's text, fit for a record, a log, a page or a terminal: on one line, without secrets, control characters
        and escape sequences, of so many characters at most."""
        text = self(whole_text(text))
        if self._changed is not None:
            text = self._changed.sub(REDACTED, text)
        return one_line(self._without_cut_secret(text))[: most_chars or self._most_chars]

    def _without_cut_secret(self, text: str) -> str:
        """Whoever passed it on may have cut it in the middle of a secret."""
        end = text.rstrip(" .…*")
        for form in self._forms:
            for length in range(min(len(form), len(end)), MIN_CUT_CHARS - 1, -1):
                if end.endswith(form[:length]):
                    return end[:-length] + REDACTED
        return text

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


def _changed(form: str) -> str:
    """A pattern of a secret in other cases, with what isn't printed or spaces in it, or with its middle masked."""
    characters = [re.escape(char) for char in form if not char.isspace()]
    start = _GAP.join(characters[:MIN_CUT_CHARS])
    return f"{start}(?:{_GAP}{_GAP.join(characters[MIN_CUT_CHARS:])}|\\S{{0,64}}?(?:\\*\\*|…|\\.\\.\\.)\\S{{0,64}})"


def _parameter(parameter: re.Match[str]) -> str:
    return parameter[1] + REDACTED if SECRET_NAME.search(parameter[2]) else parameter[0]


def option_secrets(options: Mapping[str, str]) -> list[str]:
    """Secrets in engine options as they are typed: header values, keys in the request body, in the address and its query."""
    address = *options.get("base_url", "").split(), options.get("endpoint", "")
    secrets = [str(value) for value in _object(options.get("headers", "")).values()]
    secrets += body_secrets(_object(options.get("extra_body", "")))
    for url in address:
        try:
            parts = urlsplit(url)
        except ValueError:
            continue
        secrets += [*query_secrets(parts.query), *userinfo_secrets(parts.netloc.rpartition("@")[0])]
    return secrets


def _object(text: str) -> dict[str, object]:
    try:
        value = decode_json(text)
    except UntrustedJson:
        return {}
    return value if isinstance(value, dict) else {}
