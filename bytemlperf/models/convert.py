"""Child process: GGUF file in, Hugging Face checkpoint folder out.

The weights are de-quantised to float32 and stored as bfloat16, the type that the model was
published in. They are put into a model made from a clean config, since a model that came from
GGUF is marked as quantised and refuses to be saved.

    python -m bytemlperf.models.convert MODEL.gguf FOLDER
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path


def convert(gguf: Path, folder: Path) -> None:
    """Write config, weights, tokenizer and chat template of `gguf` to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in ("quantization_config", "_name_or_path")}
    config = type(loaded.config).from_dict(settings)
    config.dtype = torch.bfloat16
    clean = type(loaded)(config).to(torch.bfloat16)
    clean.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in loaded.state_dict().items()}, strict=True)
    clean.tie_weights()
    clean.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if not tokenizer.chat_template:
        raise SystemExit(f"{gguf.name} carries no chat template")
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({name: version(name) for name in ("torch", "transformers", "gguf")}))
