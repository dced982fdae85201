"""The list of models of an OpenAI-like server: what there is to choose from, where the server has such a list.

It is a convenience. With `--model` given any answer will do: gateways have no list, keys may not read it, names are served
that are not listed. What is odd about it becomes a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from engines.contract import EngineUnavailable, Model
from engines.http.http1 import Head
from engines.openai.decode import classify
from engines.untrusted import UntrustedJson, count_of, decode_json

MAX_NAMED = 5
MAX_NAME_CHARS = 200


class Listing(NamedTuple):
    """Names with their context lengths, where told; `problem` says why there are none to be had. `refused`: for want of a key."""

    models: Mapping[str, int | None] = {}
    problem: str = ""
    refused: bool = False
    moved: bool = False
    foreign: bool = False  # what answers is no such server at all


def read_listing(head: Head, body: bytes) -> Listing:
    """What an answer to GET /v1/models says."""
    if head.status != 200:
        refused = classify(head, body)
        detail = refused[1] if refused else f"HTTP {head.status}"
        return Listing(problem=detail, refused=head.status in (401, 403), moved=300 <= head.status < 400)
    try:
        return Listing(_models(decode_json(body)))
    except UntrustedJson:
        what = "HTML" if body.lstrip()[:1] == b"<" else "something other than a list of models"
        return Listing(problem=f"/v1/models responds with {what}", foreign=True)


def _models(parsed: Any) -> dict[str, int | None]:
    """Of OpenAI's list, or a bare array of the same entries. Raises UntrustedJson when it is neither."""
    entries = parsed.get("data", parsed.get("models")) if isinstance(parsed, dict) else parsed
    if entries is None and isinstance(parsed, dict) and "data" in parsed:
        return {}  # Ollama with nothing loaded
    if not isinstance(entries, list):
        raise UntrustedJson("no list of models")
    named = ((entry.get("id", entry.get("name")), entry) for entry in entries if isinstance(entry, dict))
    return {name[:MAX_NAME_CHARS]: count_of(entry.get("max_model_len")) or None for name, entry in named if isinstance(name, str) and name}


def choose(model: Model | None, listing: Listing, server: str) -> tuple[str, int | None, str]:
    """The model's name, its context, and a note where the list doesn't confirm it. Raises EngineUnavailable without a name."""
    names = listing.models
    if model is not None:
        return model.name, names.get(model.name), _note(model.name, listing, server)
    if listing.foreign:
        raise EngineUnavailable(
            f"{server} is not an OpenAI-compatible server: {listing.problem}", "check --base-url, or name a model with --model"
        )
    if not names:
        why = f" ({listing.problem})" if listing.problem else ""
        redirects = ", or follow redirects with --engine-option transport=aiohttp" if listing.moved else ""
        raise EngineUnavailable(f"{server} does not say which models it serves{why}", f"name one with --model{redirects}")
    name = next(iter(names))
    return name, names[name], ""


def _note(name: str, listing: Listing, server: str) -> str:
    if listing.problem:
        return f"{server} does not list its models ({listing.problem}): '{name}' is taken as given"
    if listing.models and name not in listing.models:
        listed = ", ".join(list(listing.models)[:MAX_NAMED])
        return f"{server} does not list the model '{name}', which is requested anyway; it lists {listed}"
    return ""
