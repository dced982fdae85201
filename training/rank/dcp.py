"""Reading what torch.distributed.checkpoint wrote, without running code: its index and its values that are no tensors are pickles.

`IndexReader` builds nothing but the index's own dataclasses, sizes, dtypes and relative paths, `Values` nothing but what
`torch.load(weights_only=True)` does. Imported only where a checkpoint is read: it needs torch.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, ReadItem
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.serialization import _get_layout

from bytemlperf.errors import UserError
from bytemlperf.runs.files import read_plain

INDEX = ".metadata"
_FIX = "give a checkpoint of `bmp train` with --resume-from, or leave it out"
_CLASSES: tuple[Any, ...] = (
    dcp.Metadata,
    dcp.MetadataIndex,
    dcp.TensorStorageMetadata,
    dcp.BytesStorageMetadata,
    dcp.ChunkStorageMetadata,
    dcp.TensorProperties,
    dcp.StorageMeta,
    dcp._MEM_FORMAT_ENCODING,
    _StorageInfo,
    _get_layout,
    torch.Size,
)
_ALLOWED = {(kind.__module__, kind.__qualname__): kind for kind in _CLASSES} | {
    ("pathlib", "PosixPath"): PosixPath,
    ("pathlib", "PurePosixPath"): PurePosixPath,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[(module, name)]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint's index")


def read_index(folder: Path) -> dcp.Metadata:
    """The index of the checkpoint in `folder`. Raises UserError where it is none, asks for code, or names files elsewhere."""
    try:
        index = _Unpickler(io.BytesIO(read_plain(folder / INDEX))).load()
        files = [file.relative_path for file in index.storage_data.values()]
    except Exception as error:  # a pickle's opcodes raise what they like
        reason = str(error) or type(error).__name__
        raise UserError(f"the index of checkpoint {folder} can't be trusted: {' '.join(reason.split())[:200]!r}", _FIX) from None
    for file in files:
        if not isinstance(file, str) or Path(file).name != file or (folder / file).is_symlink() or not (folder / file).is_file():
            raise UserError(f"the index of checkpoint {folder} names a file that is not in it: {str(file)[:200]!r}", _FIX)
    return index  # type: ignore[no-any-return]


class IndexReader(FileSystemReader):  # type: ignore[misc]
    """DCP's reader of a folder, with an index that runs no code. Raises what `read_index` raises."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._index = read_index(folder)

    def read_metadata(self, **kwargs: Any) -> dcp.Metadata:
        if kwargs.get("rank") is not None:
            raise FileNotFoundError("one index for all ranks is what `save` wrote")
        self._index.storage_meta = self._index.storage_meta or dcp.StorageMeta()
        self._index.storage_meta.load_id = self.load_id
        return self._index


class Values(DefaultLoadPlanner):  # type: ignore[misc]
    """DCP's default plan, whose values that are no tensors (an optimizer's rates, say) run no code either."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        try:
            held = torch.load(value, weights_only=True)
        except pickle.UnpicklingError:
            raise ValueError(f"the value of {read_item.dest_index.fqn} is no plain number, text or tensor") from None
        buffer = io.BytesIO()
        torch.save(held, buffer)
        buffer.seek(0)
        super().load_bytes(read_item, buffer)
