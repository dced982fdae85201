"""A checkpoint's first layers alone: a model of the same widths that takes a part of the time. What it says is of no use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bytemlperf import extras
from bytemlperf.errors import UserError
from bytemlperf.models.shape import CONFIG_NAME
from engines.contract import Model

BLOCK = "blk."
FILE_NAME = "model.gguf"
WRITTEN_ANEW = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")


def with_layers(model: Model, layers: int, folder: Path) -> Path:
    """`folder` as a checkpoint whose GGUF file has so many layers; tokenizer and weights are links. Raises UserError without a GGUF."""
    extras.require("a model of fewer layers", "hf", "gguf")
    if not model.gguf_path or not model.path:
        raise UserError(f"model '{model.name}' has no GGUF file", "give --model smollm2, or a checkpoint folder with one")
    folder.mkdir(parents=True)
    for file in Path(model.path).iterdir():
        if file.suffix != ".gguf":
            (folder / file.name).symlink_to(file)
    config = json.loads((folder / CONFIG_NAME).read_bytes())
    (folder / CONFIG_NAME).unlink()
    (folder / CONFIG_NAME).write_text(json.dumps(config | {"num_hidden_layers": layers}, indent=1))
    _write(Path(model.gguf_path), folder / FILE_NAME, layers)
    return folder


def _write(source: Path, target: Path, layers: int) -> None:
    import gguf

    read = gguf.GGUFReader(source)
    write = gguf.GGUFWriter(target, read.fields["general.architecture"].contents())
    for name, field in read.fields.items():
        if name not in WRITTEN_ANEW:
            value = layers if name.endswith(".block_count") else field.contents()
            of_array = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            write.add_key_value(name, value, field.types[0], sub_type=of_array)
    for tensor in _of_layers(read.tensors, layers):
        write.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    write.write_header_to_file()
    write.write_kv_data_to_file()
    write.write_tensors_to_file()
    write.close()


def _of_layers(tensors: Any, layers: int) -> Iterator[Any]:
    """Those of no layer, and of the first ones: `blk.N.…` is of layer N."""
    for tensor in tensors:
        if not tensor.name.startswith(BLOCK) or int(tensor.name.split(".")[1]) < layers:
            yield tensor
