"""Which samples a step learns from, and loading them.

The samples of a step depend on the seed and the step alone, never on the layout: rank r of the data
parallel ranks takes its share of the same global batch. A corpus is cut into windows of `seq_len` + 1
tokens; each pass over them is shuffled anew. A loader process reads ahead when `loader_workers` is
above 0; what the training loop then still waits is the stall.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy
import torch
from torch.utils.data import DataLoader, Dataset

from training.workload.corpus import map_tokens
from training.workload.workload import BYTE_VOCABULARY, IGNORED_LABEL, IMAGE_PIXELS, Workload

MASKED_SHARE = 0.15
"""Devlin et al., BERT, 2019: 15 % of the tokens are asked for. All of them are replaced by the mask here."""
BYTE_MASK = BYTE_VOCABULARY - 1
"""A byte that UTF-8 text never holds."""
WORD_MASK = 4
"""SmolLM2's <repo_name>, which ordinary text never holds."""


def sample_indices(step: int, global_batch: int, samples: int, seed: int) -> list[int]:
    """The samples of a step, in order, out of `samples`."""
    first = step * global_batch
    return [_shuffled(samples, (first + position) // samples, seed)[(first + position) % samples] for position in range(global_batch)]


@lru_cache(maxsize=2)
def _shuffled(samples: int, epoch: int, seed: int) -> list[int]:
    return numpy.random.Generator(numpy.random.PCG64([seed, epoch])).permutation(samples).tolist()


class TextSamples:
    """A map-style data set: windows of a token file as int64 tensors of `seq_len` + 1 tokens."""

    def __init__(self, path: str, seq_len: int) -> None:
        self._path, self._window = path, seq_len + 1
        self._tokens: numpy.ndarray[Any, Any] | None = None
        self._count = len(map_tokens(path)) // self._window

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._tokens is None:  # mapped once in whichever process loads
            self._tokens = map_tokens(self._path)
        window = self._tokens[index * self._window : (index + 1) * self._window]
        return torch.from_numpy(window.astype("int64"))


class Masked:
    """Windows for a masked model: shape (2, seq_len), the input with holes and the labels. The holes
    depend on the seed and the sample."""

    def __init__(self, samples: TextSamples, mask: int, seed: int) -> None:
        self._samples, self._mask, self._seed = samples, mask, seed

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> torch.Tensor:
        tokens = self._samples[index][:-1]
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + index)
        holes = torch.rand(tokens.shape, generator=generator) < MASKED_SHARE
        holes[0] = True  # a window without a hole would have no loss
        return torch.stack([tokens.masked_fill(holes, self._mask), tokens.masked_fill(~holes, IGNORED_LABEL)])


class Digits:
    """scikit-learn's 1,797 handwritten digits: a dict of `image` (3, 32, 32) float32 in [0, 1] and `label`."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self._images, self._labels = bunch.images, bunch.target

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image = torch.from_numpy(self._images[index]).float() / 16.0
        times = IMAGE_PIXELS // image.shape[0]
        large = image.repeat_interleave(times, 0).repeat_interleave(times, 1)
        return {"image": large.expand(3, -1, -1).contiguous(), "label": torch.tensor(int(self._labels[index]))}


def samples_of(workload: Workload, path: str, tokenizer: str, seed: int) -> TextSamples | Masked | Digits:
    """The workload's data set."""
    if workload.data.corpus == "digits":
        return Digits()
    text = TextSamples(path, workload.model.seq_len)
    if workload.family == "bert":
        return Masked(text, BYTE_MASK if tokenizer == "bytes" else WORD_MASK, seed)
    return text


class RankBatches:
    """A batch sampler: for every step from `first_step`, the micro-batches of one data parallel rank."""

    def __init__(self, workload: Workload, samples: int, seed: int, rank: int, ranks: int, first_step: int, steps: int) -> None:
        self._recipe, self._samples, self._seed = workload.training, samples, seed
        self._rank, self._share = rank, workload.training.global_batch // ranks
        self._steps = range(first_step, steps)

    def __len__(self) -> int:
        return len(self._steps) * (self._share // self._recipe.micro_batch)

    def __iter__(self) -> Iterator[list[int]]:
        micro = self._recipe.micro_batch
        for step in self._steps:
            batch = sample_indices(step, self._recipe.global_batch, self._samples, self._seed)
            mine = batch[self._rank * self._share : (self._rank + 1) * self._share]
            for start in range(0, len(mine), micro):
                yield mine[start : start + micro]


def loader(samples: Dataset[Any], batches: RankBatches, workers: int) -> DataLoader[Any]:
    """torch's DataLoader over `batches`, one micro-batch at a time."""
    return DataLoader(samples, batch_sampler=batches, num_workers=workers, persistent_workers=False)
