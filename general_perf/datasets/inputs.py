"""Realistic random inputs, seeded: token ids over the vocabulary, real attention masks, normalised images.

The same card, batch size, seed and index give the same arrays on every machine (numpy's PCG64).
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from general_perf.backends.contract import Array, Outputs
from general_perf.card import Card, Input
from general_perf.datasets.pages import normalised, page

SHORTEST_SHARE = 0.25
"""Texts of a batch fill between a quarter and all of the sequence, uniformly."""
SAMPLE_RATE_HZ = 16_000


def make_inputs(card: Card, batch: int, seed: int, index: int = 0) -> Outputs:
    """Arrays by input name for one batch. `index` tells batches of one seed apart."""
    random = np.random.default_rng([seed, index, zlib.crc32(card.name.encode())])
    arrays: Outputs = {}
    mask = None
    for entry in sorted(card.inputs, key=lambda entry: entry.kind != "attention_mask"):  # masks first: ids follow them
        array = _values(entry, card.shape(entry, batch), random, mask)
        if entry.kind == "attention_mask":
            mask = array
        arrays[entry.name] = np.ascontiguousarray(array.astype(entry.dtype))
    return {entry.name: arrays[entry.name] for entry in card.inputs}


def input_bytes(card: Card, batch: int) -> int:
    """Bytes that the inputs of one batch take."""
    return sum(math.prod(card.shape(entry, batch)) * np.dtype(entry.dtype).itemsize for entry in card.inputs)


def _values(entry: Input, shape: tuple[int, ...], random: np.random.Generator, mask: Array | None) -> Array:
    kind = entry.kind
    if kind in ("image", "features"):
        return random.standard_normal(shape, dtype=np.float32)
    if kind == "uniform":
        return random.random(shape, dtype=np.float32)
    if kind == "audio":
        return _audio(shape, random)
    if kind == "attention_mask":
        lengths = random.integers(max(1, int(shape[-1] * SHORTEST_SHARE)), shape[-1] + 1, size=shape[0])
        lengths[0] = shape[-1]
        return (np.arange(shape[-1])[None, :] < lengths[:, None]).astype(np.int64)
    if kind == "token_ids":
        ids = random.integers(min(5, _single(entry) - 1), _single(entry), size=shape)
        return ids if mask is None or mask.shape != ids.shape else np.where(mask > 0, ids, 0)
    if kind == "categories":
        highs = entry.high if isinstance(entry.high, list) else [_single(entry)] * shape[-1]
        return np.stack([random.integers(0, high, size=shape[:-1]) for high in highs], axis=-1)
    if kind == "timestep":
        return random.integers(0, _single(entry), size=shape)
    if kind == "text_page":  # drawn pages of text: on noise, a detector of text has nothing to say but zeros
        seed = int(random.integers(1 << 31))
        return np.stack([normalised(page(seed, index, shape[-1])[0]) for index in range(shape[0])])
    if kind == "file_bytes":
        return random.integers(0, 257, size=shape)
    return np.full(shape, entry.value if kind == "constant" else 0)


def _audio(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """A few gliding tones over noise: with structure in time, as speech has, at a tenth of full scale."""
    time_s = np.arange(shape[-1], dtype=np.float64) / SAMPLE_RATE_HZ
    signal = 0.02 * random.standard_normal(shape)
    for _ in range(4):
        start_hz, glide = random.uniform(80, 2000, size=(*shape[:-1], 1)), random.uniform(-200, 200, size=(*shape[:-1], 1))
        signal += 0.05 * np.sin(2 * np.pi * (start_hz + glide * time_s) * time_s)
    return signal


def _single(entry: Input) -> int:
    high = entry.high
    return high[0] if isinstance(high, list) else int(high or 1)
