"""Checkpoints in the forms that engines load: made once in a child process, kept in the cache.

| form | made by |
|---|---|
| `gguf:TYPE` | libllama's quantiser, from the GGUF file beside the checkpoint |
| `ct2` | CTranslate2's converter of transformers checkpoints, float32 |
| `ort-genai:PRECISION` | ONNX Runtime GenAI's model builder, for a CPU |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from bytemlperf import extras
from bytemlperf.child.process import run
from bytemlperf.errors import UserError
from bytemlperf.models.cache import built_folder
from engines.contract import Model

NEEDED = {
    "gguf": ("llamacpp", ("llama_cpp",)),
    "ct2": ("ctranslate2", ("ctranslate2", "transformers", "torch")),
    "ort-genai": ("onnxruntime-genai", ("onnxruntime_genai", "onnx_ir", "transformers", "torch")),
}
"""By form: the extra, and the modules that it brings."""
PRECISIONS: dict[str, dict[str, int | str]] = {
    "gguf": {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "q5_k_m": 17, "bf16": 32},
    "ct2": {"": ""},
    "ort-genai": {"float32": "fp32", "int4": "int4"},
}
"""By form, with the converter's own words: llama.h's enum llama_ftype; of the model builder's -p."""
KEY_DIGITS = 12
PARTS = (".safetensors", ".json", ".jinja", ".model")


def converted(model: Model, form: str, say: Callable[[str], None]) -> Model:
    """The model with `converted` set to its folder in that form. Raises UserError where it can't be had."""
    kind, _, precision = form.partition(":")
    if kind not in NEEDED:
        raise UserError(f"the form {form!r} is unknown", f"known are {', '.join(NEEDED)}")
    if precision not in PRECISIONS[kind]:
        raise UserError(f"{kind} has no {precision or 'precision'} here", f"give {kind}:{f', {kind}:'.join(PRECISIONS[kind])}".rstrip(":"))
    extra, modules = NEEDED[kind]
    extras.require(f"converting to {kind}", extra, *modules)
    source = model.gguf_path if kind == "gguf" else model.path
    if source is None:
        raise UserError(f"model {model.name} has no GGUF file to convert", "put one beside its checkpoint, or give --model smollm2")
    key = _key(Path(source))
    recipe: dict[str, object] = {"form": form, "source": key, "recipe": 1}

    def build(folder: Path) -> dict[str, str]:
        say(f"Converting {model.name} to {form}, once.")
        done = run(["-m", "bytemlperf.models.form_child", kind, precision, source, str(folder)])
        if done.error:
            raise UserError(f"{model.name} can't be converted to {form}: {done.error}", "take another model, or another engine")
        versions: dict[str, str] = json.loads(done.output.strip().splitlines()[-1])
        return versions

    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{Path(model.name).name}-{form}")
    return replace(model, converted=str(built_folder(f"{name}-{key}", recipe, build)))


def _key(source: Path) -> str:
    """Of the weights, without reading them all: names, sizes and times of the files, and the config's text."""
    files = (
        [source] if source.is_file() else sorted(path for path in source.iterdir() if path.suffix in (".safetensors", ".json", ".jinja"))
    )
    told = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([str(source), told]).encode()).hexdigest()[:KEY_DIGITS]
