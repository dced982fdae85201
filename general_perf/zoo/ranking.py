"""Ranking models that transformers and diffusers don't have: wide & deep, and a DLRM-like one.

Wide & Deep: Cheng et al., Wide & Deep Learning for Recommender Systems, 2016. DLRM: Naumov et al., Deep Learning
Recommendation Model for Personalization and Recommendation Systems, 2019.
"""

from __future__ import annotations

from itertools import pairwise

from bytemlperf.extras import require

require("general_perf.zoo.ranking", "general", "torch")
import torch  # noqa: E402
from torch import nn  # noqa: E402


class WideDeep(nn.Module):  # type: ignore[misc]
    """A linear model over all features beside a deep one over embeddings and numbers; one logit.

    Inputs: `dense` float [batch, numbers], `categories` int64 [batch, columns]. Output: [batch, 1].
    """

    def __init__(self, numbers: int, cardinalities: list[int], embedding: int = 16, hidden: tuple[int, ...] = (256, 128)) -> None:
        super().__init__()
        self.wide_numbers = nn.Linear(numbers, 1)
        self.wide_categories = nn.ModuleList(nn.Embedding(count, 1) for count in cardinalities)
        self.deep_categories = nn.ModuleList(nn.Embedding(count, embedding) for count in cardinalities)
        self.deep = _layers([numbers + embedding * len(cardinalities), *hidden, 1])

    def forward(self, dense: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        wide = self.wide_numbers(dense)
        columns = [dense]
        for place, (narrow, rich) in enumerate(zip(self.wide_categories, self.deep_categories, strict=True)):
            wide = wide + narrow(categories[:, place])
            columns.append(rich(categories[:, place]))
        return wide + self.deep(torch.cat(columns, dim=1))


class Dlrm(nn.Module):  # type: ignore[misc]
    """Bottom layers over numbers, embeddings of categories, dot products of all pairs, top layers; one logit.

    Inputs and output as WideDeep.
    """

    def __init__(
        self,
        numbers: int,
        cardinalities: list[int],
        embedding: int = 64,
        bottom: tuple[int, ...] = (512, 256),
        top: tuple[int, ...] = (512, 256),
    ) -> None:
        super().__init__()
        self.bottom = _layers([numbers, *bottom, embedding])
        self.tables = nn.ModuleList(nn.Embedding(count, embedding) for count in cardinalities)
        vectors = len(cardinalities) + 1
        self.top = _layers([embedding + vectors * (vectors - 1) // 2, *top, 1])
        rows, columns = torch.tril_indices(vectors, vectors, offset=-1)
        self.register_buffer("pairs", rows * vectors + columns, persistent=False)

    def forward(self, dense: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        low = self.bottom(dense)
        vectors = torch.stack([low, *[table(categories[:, place]) for place, table in enumerate(self.tables)]], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        return self.top(torch.cat([low, products[:, self.pairs]], dim=1))


def _layers(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
