"""--sparsity: prune the weights of linear layers by magnitude, with torch's own tools, before a backend compiles them.

A pattern n:m comes from `torch.ao.pruning.WeightNormSparsifier`, a share of zeros without a pattern from
`torch.nn.utils.prune`. Nothing is trained again: what pruning costs in accuracy and numerics stands in the same result,
against the model as it was.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from bytemlperf.errors import UserError
from general_perf.backends.contract import SourceModel
from general_perf.failures import StageError

if TYPE_CHECKING:
    import torch


class Kind(NamedTuple):
    """`kept` of every `group` neighbours stay; or `share` of all values becomes 0."""

    kept: int = 0
    group: int = 0
    share: float = 0.0


def kind_of(text: str) -> Kind:
    """`2:4`, or `0.8`. Raises UserError."""
    if pattern := re.fullmatch(r"(\d{1,3}):(\d{1,3})", text):
        kept, group = int(pattern[1]), int(pattern[2])
        if 0 < kept < group:
            return Kind(kept=kept, group=group)
    elif re.fullmatch(r"0?\.\d{1,9}", text) and 0 < float(text) < 1:
        return Kind(share=float(text))
    raise UserError(f"--sparsity '{text}' is neither a pattern nor a share", "give n:m with n below m, such as 2:4, or a share such as 0.8")


def sparsified(model: SourceModel, text: str) -> tuple[SourceModel, str]:
    """A copy of the model with its linear layers pruned, and in words by what. Raises StageError where there are none."""
    import torch

    kind = kind_of(text)
    if model.module is None or model.format != "torch":
        cause = f"--sparsity prunes torch models, and this one is a file of {model.format.upper()}"
        raise StageError("unsupported_format", cause, "prune it before, and give it with --weights")
    module = copy.deepcopy(model.module)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)}
    if kind.group:
        layers = {name: layer for name, layer in layers.items() if layer.in_features % kind.group == 0}
    if not layers:
        what = f", with inputs in whole groups of {kind.group}" if kind.group else ""
        raise StageError("unsupported_operator", f"the model has no linear layer{what}: --sparsity prunes these alone", "leave it out")
    tool = _pattern(module, layers, kind) if kind.group else _share(layers, kind)
    return replace(model, module=module), f"{text}, {len(layers)} linear layers by {tool}"


def _pattern(module: torch.nn.Module, layers: dict[str, torch.nn.Linear], kind: Kind) -> str:
    from torch.ao.pruning import WeightNormSparsifier

    tool = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, kind.group), zeros_per_block=kind.group - kind.kept)
    tool.prepare(module, [{"tensor_fqn": f"{name}.weight"} for name in layers])
    tool.step()
    tool.squash_mask()
    module.requires_grad_(False)
    return "torch.ao.pruning.WeightNormSparsifier"


def _share(layers: dict[str, torch.nn.Linear], kind: Kind) -> str:
    from torch.nn.utils import prune

    for layer in layers.values():
        prune.l1_unstructured(layer, "weight", amount=kind.share)
        prune.remove(layer, "weight")
        layer.requires_grad_(False)
    return "torch.nn.utils.prune.l1_unstructured"
