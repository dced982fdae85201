"""The text that is learned, as token ids in one file that every rank maps into memory.

Built once into the cache and checked by SHA-256 when it is used again (`models.cache`), so that a
damaged file is built anew. Texts are taken in the order of their names and joined by a zero byte or
the tokenizer's end token. Token ids are little-endian 16-bit numbers: no vocabulary here is larger.
"""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.models import resolve, smollm2
from bytemlperf.models.cache import built_folder, cache_root
from training.workload.workload import Data, vocabulary

if TYPE_CHECKING:
    import numpy

TOKENS_NAME = "tokens.bin"
STDLIB_BYTES = 8 << 20
"""As much of the standard library as is taken: some thousand steps of the small workloads."""
TOKENIZER_CHUNK_CHARS = 1 << 16


class TokenFile(msgspec.Struct, frozen=True, kw_only=True):
    """A corpus that is ready: where, how many tokens, of which tokenizer, and the SHA-256 of its text."""

    path: str
    tokens: int
    tokenizer: str
    vocabulary: int
    text_sha256: str
    source: str


def prepare_corpus(data: Data) -> TokenFile:
    """Build the token file, or find it in the cache. Raises UserError."""
    tokenizer = resolve_tokenizer(data.tokenizer)
    texts = list(_texts(data.corpus))
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()
    recipe = {"corpus": data.corpus, "text_sha256": digest, "tokenizer": tokenizer, "recipe": 1}
    folder = built_folder(f"corpus-{data.corpus}-{tokenizer}-{digest[:12]}", recipe, lambda target: _build(target, texts, tokenizer))
    path = folder / TOKENS_NAME
    return TokenFile(
        path=str(path),
        tokens=path.stat().st_size // 2,
        tokenizer=tokenizer,
        vocabulary=vocabulary(tokenizer),
        text_sha256=digest,
        source=_source(data.corpus),
    )


def resolve_tokenizer(name: str) -> str:
    """`auto` is SmolLM2's where it is on this machine already, else bytes."""
    if name != "auto":
        return name
    here = (cache_root() / smollm2.FOLDER / "checkpoint").is_dir() or find_spec(smollm2.MODULE) is not None
    return "smollm2" if here else "bytes"


def map_tokens(path: str) -> numpy.ndarray[Any, Any]:
    """The token ids, mapped into memory: shape (tokens,), uint16, read-only."""
    import numpy

    return numpy.memmap(path, dtype="<u2", mode="r")


def _source(corpus: str) -> str:
    if corpus == "stdlib":
        return f"sources of the standard library of Python {sys.version.split()[0]}, the first {STDLIB_BYTES >> 20} MiB"
    return "texts of the built-in scenarios"


def _texts(corpus: str) -> Iterator[bytes]:
    return _scenario_texts() if corpus == "prompts" else _stdlib_texts()


def _scenario_texts() -> Iterator[bytes]:
    import scenarios

    for path in sorted((Path(scenarios.__file__).parent / "prompts").glob("*-en.jsonl")):
        for line in path.read_bytes().splitlines():
            if line.strip():
                yield "\n".join(message["content"] for message in json.loads(line)["messages"]).encode()


def _stdlib_texts() -> Iterator[bytes]:
    root = Path(sysconfig.get_path("stdlib") or "")
    left = STDLIB_BYTES
    for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py")):
        if "site-packages" in path.parts or left <= 0:
            continue
        try:
            text = path.read_bytes()[:left]
        except OSError:
            continue
        left -= len(text)
        yield text
    if left == STDLIB_BYTES:
        raise UserError(f"the standard library has no sources in {root}", "take a workload with data: {corpus: prompts}")


def _build(target: Path, texts: list[bytes], tokenizer: str) -> dict[str, str]:
    import numpy

    with (target / TOKENS_NAME).open("wb") as file:
        if tokenizer == "bytes":
            file.write(numpy.frombuffer(b"\0".join(texts), dtype=numpy.uint8).astype("<u2").tobytes())
            return {"numpy": numpy.__version__}
        encode, end = _smollm2_encoder()
        for text in texts:
            for ids in encode(text.decode("utf-8", "replace")):
                file.write(numpy.asarray(ids, dtype="<u2").tobytes())
            file.write(numpy.asarray([end], dtype="<u2").tobytes())
    return {"numpy": numpy.__version__}


def _smollm2_encoder() -> tuple[Any, int]:
    from tokenizers import Tokenizer

    model = resolve("smollm2")
    tokenizer = Tokenizer.from_file(str(Path(model.path or "") / "tokenizer.json"))

    def encode(text: str) -> Iterator[list[int]]:
        for start in range(0, len(text), TOKENIZER_CHUNK_CHARS):
            yield tokenizer.encode(text[start : start + TOKENIZER_CHUNK_CHARS]).ids

    return encode, int(tokenizer.token_to_id("<|endoftext|>") or 0)
