"""What a model's weights are stored as, read from its own files: the `dtype` of a result says what really ran.

A quantised model and one in 16 bits are two models, also where both multiply in bfloat16.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

SHARE_NAMED = 0.05
"""A type that holds less of the weights is not named."""

GGML_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"), start=6)),
    **dict(enumerate(("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS"), start=16)),
    **dict(enumerate(("I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16"), start=24)),
    39: "MXFP4",
}
"""ggml.h, enum ggml_type."""

_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_MAX_ITEMS = 1 << 24

_IR_DATA = re.compile(r'<data [^>]*element_type="(\w+)"[^>]*>')
_IR_SIZE = re.compile(r' size="(\d+)"')
_IR_BITS = re.compile(r"\d+")


def dtype_text(weights: str, arithmetic: str) -> str:
    """The `dtype` of an EngineInfo: "bfloat16", or "Q4_1/Q8_0 weights, bfloat16 arithmetic"."""
    return f"{weights} weights, {arithmetic} arithmetic" if weights and weights != arithmetic else arithmetic


def quantisation_text(config: object) -> str:
    """A checkpoint's `quantization_config` in a few words, such as "awq 4-bit"; "" without one."""
    fields = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    method = fields.get("quant_method")
    if not method:
        return ""
    name = str(getattr(method, "value", method))
    bits = fields.get("bits") or fields.get("w_bit") or (4 if fields.get("load_in_4bit") else 8 if fields.get("load_in_8bit") else None)
    if bits is None:
        groups = fields.get("config_groups")
        match = re.search(r"'num_bits': (\d+)", str(groups)) if groups else None
        bits = match[1] if match else None
    return name if bits is None else f"{name} {bits}-bit"


def gguf_weights(path: Path) -> str:
    """The types that a GGUF file's tensors are stored as, the largest first; "" where it can't be told."""
    try:
        with path.open("rb") as file:
            return _named(_gguf_counts(file))
    except (OSError, ValueError, struct.error):
        return ""


def ir_weights(path: Path) -> str:
    """The same of an OpenVINO IR's constants, from its XML: "u4", or "f16"."""
    counts: Counter[str] = Counter()
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                for data in _IR_DATA.finditer(line):
                    size, bits = _IR_SIZE.search(data[0]), _IR_BITS.search(data[1])
                    if size and bits:
                        counts[data[1]] += int(size[1]) * 8 // max(1, int(bits[0]))
    except OSError:
        return ""
    return _named(counts)


def _named(counts: Counter[str]) -> str:
    whole = sum(counts.values())
    return "/".join(name for name, count in counts.most_common() if count >= SHARE_NAMED * whole)


def _gguf_counts(file: BinaryIO) -> Counter[str]:
    """Values by type. Layout: github.com/ggml-org/ggml, docs/gguf.md."""
    magic, _version, tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or max(tensors, pairs) > _MAX_ITEMS:
        raise ValueError
    for _ in range(pairs):
        _skip_string(file)
        _skip_value(file, _unpack(file, "<I"))
    counts: Counter[str] = Counter()
    for _ in range(tensors):
        _skip_string(file)
        values = 1
        for _ in range(_checked(_unpack(file, "<I"), 8)):
            values *= _unpack(file, "<Q")
        kind = _unpack(file, "<I")
        counts[GGML_TYPES.get(kind, f"type {kind}")] += values
        file.seek(8, 1)
    return counts


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _GGUF_STRING:
        _skip_string(file)
    elif kind == _GGUF_ARRAY:
        item, count = struct.unpack("<IQ", file.read(12))
        if item in _GGUF_SIZES:
            file.seek(_GGUF_SIZES[item] * count, 1)
        else:
            for _ in range(_checked(count, _MAX_ITEMS)):
                _skip_value(file, item)
    elif kind in _GGUF_SIZES:
        file.seek(_GGUF_SIZES[kind], 1)
    else:
        raise ValueError


def _skip_string(file: BinaryIO) -> None:
    file.seek(_unpack(file, "<Q"), 1)


def _unpack(file: BinaryIO, form: str) -> int:
    (value,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(value)


def _checked(count: int, most: int) -> int:
    if count > most:
        raise ValueError
    return count
