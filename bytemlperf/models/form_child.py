"""Child process: a checkpoint or GGUF file in, a folder in another form out.

python -m bytemlperf.models.form_child gguf|ct2|ort-genai PRECISION SOURCE FOLDER
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from bytemlperf.models.forms import PRECISIONS


def to_gguf(precision: str, source: Path, folder: Path) -> str:
    """The distribution that made it."""
    import ctypes

    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = int(PRECISIONS["gguf"][precision]), True
    target = folder / f"{source.name.split('.')[0]}.{precision.upper()}.gguf"
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp's quantiser can't write {precision}")
    return "llama-cpp-python"


def to_ct2(_precision: str, source: Path, folder: Path) -> str:
    """The distribution that made it."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(source)).convert(str(folder), force=True)
    return "ctranslate2"


def to_ort_genai(precision: str, source: Path, folder: Path) -> str:
    """The distribution that made it."""
    with tempfile.TemporaryDirectory() as cache:
        paths = ["-i", str(source), "-o", str(folder), "-c", cache]
        sys.argv = ["builder", *paths, "-p", str(PRECISIONS["ort-genai"][precision]), "-e", "cpu"]
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
    return "onnxruntime-genai"


MAKERS = {"gguf": to_gguf, "ct2": to_ct2, "ort-genai": to_ort_genai}

if __name__ == "__main__":
    said = os.dup(1)
    os.dup2(2, 1)  # libraries print as they please; our standard output is a result
    form, precision, source, folder = sys.argv[1:]
    maker = MAKERS[form](precision, Path(source), Path(folder))
    sys.stdout.flush()
    os.write(said, json.dumps({maker: version(maker)}).encode() + b"\n")
