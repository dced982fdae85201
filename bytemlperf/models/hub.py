"""A model from the Hugging Face hub, where one can be reached (or is in its local cache)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from bytemlperf.errors import UserError
from bytemlperf.models import checkpoint
from engines.contract import Model

WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
OTHERS = "use --model smollm2 (real weights), --model synthetic (random weights), or --model FOLDER (a checkpoint on this machine)"


def resolve(name: str, say: Callable[[str], None]) -> Model:
    """Download `org/name` (weights as safetensors, config, tokenizer; never code).

    Raises UserError when the hub can't be reached or does not give the model away.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(
            f"model '{name}' is a hub id and huggingface_hub is not installed", f"pip install 'bytemlperf-llm[hf]', or {OTHERS}"
        )
    # The library reads both when it is imported.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    say(f"Downloading {name} from the hub.")
    return checkpoint.describe(name, Path(_snapshot(name)))


def _snapshot(name: str) -> str:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return str(huggingface_hub.snapshot_download(name, allow_patterns=WANTED))
    except errors.GatedRepoError:
        raise UserError(f"model '{name}' is gated on the hub", "accept its licence there and set HF_TOKEN, or " + OTHERS) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"the hub has no model '{name}' that you may read", "check the name, set HF_TOKEN, or " + OTHERS) from None
    except Exception as error:  # the library lets its HTTP client's own errors through
        cause = (str(error).strip() or "no reason given").splitlines()[0][:120]
        raise UserError(f"model '{name}' can't be downloaded, the hub does not respond ({type(error).__name__}: {cause})", OTHERS) from None
