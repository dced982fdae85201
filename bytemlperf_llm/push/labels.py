"""Labels that every pushed series carries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from bytemlperf_llm.errors import UserError

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
OURS = ("job", "le", "__name__")


def labels_of(texts: Sequence[str], source: str) -> dict[str, str]:
    """NAME=VALUE texts; without one, `run` is the address of the metrics. Raises UserError."""
    labels = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not value or not NAME.fullmatch(name) or name in OURS:
            raise UserError(f"--label {text!r} is not NAME=VALUE", "write for example --label run=friday; job and le are taken")
        labels[name] = value
    return labels or {"run": urlsplit(source).netloc}
