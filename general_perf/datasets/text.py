"""Real text that every Python carries: the docstrings of its standard library.

Retrieval: the first line of a docstring is the query, the rest the document that should be found among all others.
Next token: how well a language model foretells the running text of docstrings. Read from source, nothing is imported.
"""

from __future__ import annotations

import ast
import platform
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytemlperf.models import resolve
from general_perf.backends.contract import Array, Outputs
from general_perf.card import Card, LanguageModel, Package
from general_perf.datasets.contract import Dataset, spread
from general_perf.failures import StageError
from general_perf.measure.numerics import log_softmax

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHORTEST_QUERY, SHORTEST_DOCUMENT, LONGEST_DOCUMENT = 25, 120, 600
"""Characters."""
CALIBRATION_SAMPLES = 64


def retrieval(card: Card, limit: int) -> Dataset:
    """Queries and documents, embedded; recall@1 and recall@10 by cosine, half of `limit` of each."""
    pairs = docstring_pairs()
    chosen = spread(pairs, max(1, limit // 2))
    others = [text for pair in pairs if pair not in set(chosen) for text in pair]
    encode = _encoder(card)
    count = len(chosen)

    def postprocess(text: str, outputs: Outputs) -> Array:
        """Mean over the text's own tokens, at unit length."""
        mask = encode(text)["attention_mask"][:, None]
        mean = (outputs["last_hidden_state"] * mask).sum(axis=0) / mask.sum()
        return mean / np.linalg.norm(mean)

    def ranked(answers: Array) -> Array:
        return np.argsort(-(answers[:count] @ answers[count:].T), axis=1, kind="stable")

    def metrics(answers: Array, _labels: Sequence[int]) -> dict[str, float]:
        hits = ranked(answers) == np.arange(count)[:, None]
        return {"recall@1": float(hits[:, :1].any(axis=1).mean()), "recall@10": float(hits[:, :10].any(axis=1).mean())}

    return Dataset(
        name="docstring-retrieval",
        source=f"docstrings of Python {platform.python_version()}'s standard library: first line as query, rest as document",
        samples=[query for query, _ in chosen] + [document for _, document in chosen],
        labels=list(range(count)) * 2,
        whole=len(pairs),
        judged=count,
        preprocess=encode,
        postprocess=postprocess,
        metrics=metrics,
        decisions=lambda answers: ranked(answers)[:, 0],
        calibration=others[:CALIBRATION_SAMPLES],
    )


def next_token(card: Card, limit: int) -> Dataset:
    """Windows of running text; next-token top-1 and perplexity."""
    length = card.dims["sequence"]
    text = "\n\n".join(f"{query}\n{document}" for query, document in docstring_pairs())
    ids = list(language_tokenizer(card).encode(text).ids)
    windows = [ids[start : start + length] for start in range(0, len(ids) - length, length)]
    places = spread(range(len(windows)), limit)
    chosen, others = [windows[index] for index in places], sorted(set(range(len(windows))) - set(places))

    def postprocess(window: list[int], outputs: Outputs) -> Array:
        """For each token after the first: the one foretold, and the log probability of the one that came."""
        logits: Array = outputs["logits"][:-1].astype(np.float64)
        came = np.asarray(window[1:])
        return np.stack([logits.argmax(axis=1), log_softmax(logits)[np.arange(len(came)), came]], axis=1)

    def metrics(answers: Array, truth: Sequence[list[int]]) -> dict[str, float]:
        right = answers[:, :, 0] == np.asarray(truth)
        return {"next_token_top1": float(right.mean()), "perplexity": float(np.exp(-answers[:, :, 1].mean()))}

    return Dataset(
        name="docstring-next-token",
        source=f"docstrings of Python {platform.python_version()}'s standard library, windows of {length} tokens",
        samples=chosen,
        labels=[window[1:] for window in chosen],
        whole=len(windows),
        preprocess=lambda window: {
            "input_ids": np.asarray(window, dtype=np.int64),
            "attention_mask": np.ones(length, dtype=np.int64),
        },
        postprocess=postprocess,
        metrics=metrics,
        decisions=lambda answers: answers[:, :, 0],
        calibration=[windows[index] for index in others[::2][:CALIBRATION_SAMPLES]],
    )


@cache
def docstring_pairs() -> tuple[tuple[str, str], ...]:
    """(first line, rest) of every docstring of the standard library's top-level modules with enough of both."""
    folder = Path(sysconfig.get_path("stdlib"))
    pairs: dict[str, str] = {}
    for path in sorted(folder.glob("*.py")):
        for text in _docstrings(path):
            head, _, rest = text.strip().partition("\n")
            document = " ".join(rest.split())
            if len(head) >= SHORTEST_QUERY and len(document) >= SHORTEST_DOCUMENT:
                pairs.setdefault(head.strip(), document[:LONGEST_DOCUMENT])
    if not pairs:
        raise StageError("missing_dataset", f"{folder} has no Python sources", "run a Python whose standard library is there as source")
    return tuple(pairs.items())


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
            yield text


def language_tokenizer(card: Card) -> Tokenizer:
    """The tokenizer of a card's language model. Raises StageError for another card."""
    from tokenizers import Tokenizer

    if not isinstance(card.source, LanguageModel):
        raise StageError("missing_dataset", f"{card.name} is not a language model", "leave accuracy out with --stage")
    return Tokenizer.from_file(str(Path(str(resolve(card.source.name).path)) / "tokenizer.json"))


def _encoder(card: Card) -> Callable[[str], Outputs]:
    """From text to the card's inputs, filled up to its sequence; by the tokenizer beside the package's weights."""
    from tokenizers import Tokenizer

    folder = card.source.folder() if isinstance(card.source, Package) else None
    path = folder / card.source.path / "tokenizer.json" if folder and isinstance(card.source, Package) else None
    if path is None or not path.is_file():
        raise StageError("missing_dataset", f"{card.name} has no tokenizer to read text with", "leave accuracy out with --stage")
    tokenizer = Tokenizer.from_file(str(path))
    length = card.dims["sequence"]
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}

    def encode(text: str) -> Outputs:
        encoded = tokenizer.encode(text)
        return {entry.name: np.asarray(getattr(encoded, names[entry.name]), dtype=np.int64) for entry in card.inputs}

    return encode
