"""Tokenizers for the tests of prompt lengths: the synthetic model's, written here, and SmolLM2's where it was built before."""

from __future__ import annotations

import json
from pathlib import Path

from bytemlperf.models import cache, synthetic

FILES = synthetic._files(synthetic.Options())


def byte_tokenizer(folder: Path, template: str | None = FILES["tokenizer_config.json"]["chat_template"]) -> str:
    """The folder with the synthetic model's tokenizer, one token a byte, and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    config = FILES["tokenizer_config.json"] | {"chat_template": template}
    (folder / "tokenizer.json").write_text(json.dumps(FILES["tokenizer.json"]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def smollm2_tokenizer() -> str | None:
    """SmolLM2's checkpoint in the model cache; None where nobody has built it yet."""
    found = sorted(cache.cache_root().glob("smollm2-*/checkpoint/tokenizer.json"))
    return str(found[0].parent) if found else None
