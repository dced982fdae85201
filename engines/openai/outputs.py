"""What a server answers to inputs, decoded and checked: vectors of /v1/embeddings, scores of a rerank. No I/O, no clock.

One JSON object (of TEI's rerank: a list), read when it is whole. A vector or score too many or too few is found by who knows the
request; here are its kind, its number, and that all vectors of a run have one length and all values are finite.
"""

from __future__ import annotations

import base64
import binascii
import math
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from engines.contract import Decoded, ErrorClass, Usage
from engines.http.http1 import HttpParseError, head_and_body
from engines.openai.decode import CLASSIFIED_BYTES, classify, excerpt, words_of
from engines.openai.head_facts import head_facts
from engines.openai.usage import loose_usage
from engines.untrusted import UntrustedJson, decode_json


class _Vector(msgspec.Struct, gc=False):
    embedding: list[float] | str
    index: int | None = None


class _Score(msgspec.Struct, gc=False):
    index: int
    relevance_score: float | None = None
    score: float | None = None


class _Answer(msgspec.Struct, gc=False):
    data: list[_Vector] | None = None
    results: list[_Score] | None = None
    usage: Any = None
    meta: Any = None


class OutputsDecoder:
    """Of one run's answers: `dimension` is that of the first vector."""

    def __init__(self) -> None:
        self.dimension: int | None = None

    def __call__(self, payloads: Sequence[Any]) -> Decoded:
        """Reads of the lean transport (head included), or a `Head` followed by body reads."""
        decoded = Decoded(tokens_per_chunk=[0] * len(payloads), text="")
        try:
            head, body = head_and_body(payloads)
        except HttpParseError as error:
            decoded.error_class, decoded.error_detail = "malformed_stream", str(error)
            return decoded
        decoded.server, decoded.server_id = head_facts(head.headers)
        refused = classify(head, body[:CLASSIFIED_BYTES], stream=False) or _error_in(body)
        if refused is not None:
            decoded.error_class, decoded.error_detail = refused
            return decoded
        try:
            decoded.outputs, decoded.usage = self._read(body)
        except (UntrustedJson, ValueError) as error:
            decoded.error_class, decoded.error_detail = "invalid_output", str(error)
        return decoded

    def _read(self, body: bytes) -> tuple[int, Usage]:
        """How many vectors or scores, and what they cost. Raises UntrustedJson, and ValueError where one of them can't be right."""
        answer = decode_json(body, _Answer | list[_Score])  # type: ignore[arg-type]
        if isinstance(answer, list):
            answer = _Answer(results=answer)
        usage = Usage(prompt_tokens=_tokens_in(answer))
        if answer.results is not None:
            _check_places([score.index for score in answer.results])
            _check_finite([_value_of(score) for score in answer.results])
            return len(answer.results), usage
        if answer.data is None:
            raise ValueError(f"neither data nor results in {excerpt(body)[:100]}")
        _check_places([vector.index for vector in answer.data if vector.index is not None])
        for vector in answer.data:
            self._check_vector(vector.embedding)
        return len(answer.data), usage

    def _check_vector(self, given: list[float] | str) -> None:
        values = _unpacked(given) if isinstance(given, str) else given
        _check_finite(values)
        if self.dimension is None and values:
            self.dimension = len(values)
        if len(values) != self.dimension:
            raise ValueError(f"a vector of {len(values)} numbers where the first has {self.dimension}")


def _error_in(body: bytes) -> tuple[ErrorClass, str] | None:
    """An error that comes with status 200."""
    words = words_of(body) if body.lstrip().startswith(b'{"error"') else ""
    return ("error_in_stream", words) if words else None


def _tokens_in(answer: _Answer) -> int | None:
    """Tokens of the inputs as reported: OpenAI's `prompt_tokens`, Jina's `total_tokens`, Cohere's `input_tokens`."""
    usage = loose_usage(answer.usage) or loose_usage(answer.meta.get("tokens") if isinstance(answer.meta, dict) else None)
    if usage is None:
        return None
    return usage.prompt_tokens or usage.input_tokens or usage.total_tokens or None


def _check_places(places: list[int]) -> None:
    if sorted(places) != list(range(len(places))):
        raise ValueError("an index is missing or there twice")


def _check_finite(values: Sequence[float]) -> None:
    if not math.isfinite(sum(values)):
        raise ValueError("a number that is not finite")


def _value_of(score: _Score) -> float:
    value = score.score if score.relevance_score is None else score.relevance_score
    if value is None:
        raise ValueError("a result without a score")
    return value


def _unpacked(text: str) -> array[float]:
    """Base64 of 32-bit floats, as `encoding_format` base64 has them."""
    try:
        values = array("f")
        values.frombytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise ValueError("an embedding that is neither a list of numbers nor base64 of 32-bit floats") from None
    return values
