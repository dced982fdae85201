"""A Hugging Face checkpoint folder: is it whole, and what does its config say."""

from __future__ import annotations

from pathlib import Path

from bytemlperf.errors import UserError
from engines.contract import Model
from engines.untrusted import decode_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")
LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


def resolve(name: str, folder: Path) -> Model:
    """The checkpoint in `folder`. Raises UserError that says which part is missing."""
    if not folder.exists():
        raise UserError(f"model folder '{name}' does not exist", "give the folder that holds config.json")
    if not folder.is_dir():
        raise UserError(f"model '{name}' is a file", "give the checkpoint folder that holds config.json, *.safetensors and the tokenizer")
    return describe(name, folder)


def describe(name: str, folder: Path, gguf: Path | None = None) -> Model:
    """A Model for a whole checkpoint `folder`. Raises UserError for one that is not whole."""
    config = _json_object(name, folder / "config.json", "give a Hugging Face checkpoint folder")
    _check_weights(name, folder)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise UserError(f"model folder '{name}' has no tokenizer", f"put one of {', '.join(TOKENIZER_FILES)} there")
    beside = sorted(folder.glob("*.gguf"))
    if gguf is None and len(beside) == 1:
        gguf = beside[0]
    return Model(
        name=name,
        path=str(folder.absolute()),
        gguf_path=str(gguf.absolute()) if gguf else None,
        max_model_len=max_model_len(config),
    )


def max_model_len(config: dict[str, object]) -> int | None:
    """Context length in tokens that config.json names, None where it names none."""
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        for key in LENGTH_KEYS:
            if isinstance(length := source.get(key), int):
                return length
    return None


def _json_object(name: str, path: Path, fix: str) -> dict[str, object]:
    try:
        content = decode_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"model folder '{name}' has no {path.name}", fix) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} in model folder '{name}' can't be read: {error}", "fetch the checkpoint again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path.name} in model folder '{name}' is not a JSON object", "fetch the checkpoint again")
    return content


def _check_weights(name: str, folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _json_object(name, index, "fetch the checkpoint again").get("weight_map")
        files = {str(file) for file in shards.values()} if isinstance(shards, dict) else set[str]()
        missing = sorted(file for file in files if not (folder / file).is_file())
        if missing:
            raise UserError(
                f"model folder '{name}' lacks {len(missing)} of its weight files, the first {missing[0]}", "fetch the checkpoint again"
            )
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise UserError(
            f"the weights in model folder '{name}' are pickles (*.bin), which can run code",
            "save them as safetensors: model.save_pretrained(folder) with transformers",
        )
    raise UserError(f"model folder '{name}' has no weights (*.safetensors)", "fetch the checkpoint again")
