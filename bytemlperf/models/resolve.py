"""From the name that a user gives to an `engines.contract.Model`.

A name is tried as, in this order: a built-in model (`smollm2`, `synthetic`, `synthetic:seed=1`),
a path, a hub id. Everything that can be wrong ends in one UserError.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from bytemlperf.errors import UserError
from bytemlperf.models import checkpoint, hub, smollm2, synthetic
from engines.contract import Model

Progress = Callable[[str], None]
"""Gets short sentences about work that takes more than a moment."""

DEFAULT_MODEL = "smollm2"
BUILT_IN = {
    "smollm2": "SmolLM2-135M-Instruct, real weights from a Python package; the default",
    "synthetic": "a tiny Llama with random weights, generated in seconds; options: synthetic:seed=1,layers=2,hidden=64,context=2048",
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(name: str = DEFAULT_MODEL, progress: Progress | None = None) -> Model:
    """Weights, tokenizer and context length for `name`, fetched and built where needed.

    Raises UserError for an unknown name, a folder that is no checkpoint, a hub that can't be
    reached, missing packages, and bad `synthetic` options. Prints nothing.
    """
    say = progress or (lambda _sentence: None)
    base, _, options = name.partition(":")
    if base == "synthetic":
        return synthetic.resolve(name, options)
    if name == "smollm2":
        return smollm2.resolve(say)
    path = Path(name).expanduser()
    if path.exists() or name.startswith(("/", "./", "../", "~")):
        return checkpoint.resolve(name, path)
    if HUB_ID.fullmatch(name):
        return hub.resolve(name, say)
    raise _unknown(name)


def _unknown(name: str) -> UserError:
    near = difflib.get_close_matches(name.lower(), BUILT_IN, n=1, cutoff=0.5)
    others = "a folder with a checkpoint, or a hub id such as org/name"
    fix = f"did you mean '{near[0]}'? Else give {others}" if near else f"give {', '.join(BUILT_IN)}, {others}"
    return UserError(f"model '{name}' is unknown", fix)
