"""How the ranks share the work: tensor, pipeline, expert and data parallel sizes, checked against the workload.

Ranks are counted as Megatron-LM does: tensor parallel neighbours first, then data parallel, then
pipeline stages. Expert parallel groups are cut out of the data parallel ones.
"""

from __future__ import annotations

import msgspec

from bytemlperf.errors import UserError
from training.workload.choices import Sharding
from training.workload.flops import expert_parameters, layer_parameters
from training.workload.workload import Workload

TrainerName = str
"""Of `bytemlperf.extensions.TRAINERS`; a trainer of another package checks its layout itself, when it is built."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the parallel groups; `world` is the number of ranks."""

    world: int
    dp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1


def resolve_layout(world: int, dp: int | None, tp: int, pp: int, ep: int) -> Layout:
    """The layout of `world` ranks; data parallel takes what is left unless given. Raises UserError when it doesn't come out even."""
    if min(world, dp or 1, tp, pp, ep) < 1:
        raise UserError("a parallel size is below 1", "give 1 for dimensions that aren't split")
    if dp is None:
        if world % (tp * pp):
            raise UserError(f"{world} ranks can't be split into tp {tp} x pp {pp}", f"give --nproc as a multiple of {tp * pp}")
        dp = world // (tp * pp)
    if dp * tp * pp != world:
        raise UserError(
            f"dp {dp} x tp {tp} x pp {pp} = {dp * tp * pp} ranks, but there are {world}", f"give --nproc {dp * tp * pp}, or other sizes"
        )
    if dp % ep:
        raise UserError(f"ep {ep} doesn't divide dp {dp}", "experts are split over the data parallel ranks: make --dp a multiple of --ep")
    return Layout(world=world, dp=dp, tp=tp, pp=pp, ep=ep)


def check_layout(workload: Workload, layout: Layout, trainer: TrainerName, sharding: Sharding) -> None:
    """Raise UserError, with the first reason why `trainer` can't train `workload` in this layout."""
    _check_trainer(workload, layout, trainer, sharding)
    if workload.family != "resnet":
        _check_transformer(workload, layout)
    recipe = workload.training
    per_step = recipe.micro_batch * layout.dp
    if recipe.global_batch % per_step:
        raise UserError(
            f"micro_batch {recipe.micro_batch} x dp {layout.dp} doesn't divide global_batch {recipe.global_batch}",
            f"give --global-batch {-(-recipe.global_batch // per_step) * per_step}, or another --micro-batch",
        )


def _check_trainer(workload: Workload, layout: Layout, trainer: TrainerName, sharding: Sharding) -> None:
    family = workload.family
    if trainer == "megatron":
        if family not in ("gpt", "llama", "moe"):
            raise UserError(f"trainer megatron doesn't train a {family} here", "use --trainer torch")
        if sharding == "fsdp":
            raise UserError("trainer megatron has no --sharding fsdp here", "use --sharding zero1, or --trainer torch")
    if trainer != "torch":
        return
    if sharding == "zero1":
        raise UserError("trainer torch has no --sharding zero1", "use --sharding fsdp, or --trainer megatron")
    if layout.pp > 1 or layout.ep > 1:
        raise UserError("trainer torch has no pipeline or expert parallel", "use --trainer megatron")
    if family in ("bert", "resnet", "moe") and layout.tp > 1:
        raise UserError(
            f"trainer torch has no tensor parallel for a {family}", "use --tp 1" + (", or --trainer megatron" * (family == "moe"))
        )
    if layout.tp > 1 and layout.dp > 1 and sharding == "ddp":
        raise UserError("trainer torch joins tensor and data parallel through fsdp only", "add --sharding fsdp, or use --trainer megatron")
    if sharding == "fsdp" and family == "resnet":
        raise UserError("a resnet is trained with ddp here", "leave --sharding out")


def _check_transformer(workload: Workload, layout: Layout) -> None:
    model = workload.model
    if layout.ep > 1 and not model.experts:
        raise UserError(f"{workload.name} has no experts to split over ep {layout.ep}", "leave --ep out")
    for dimension, parts, number, what in (
        ("tp", layout.tp, model.heads, "attention heads"),
        ("tp", layout.tp, model.kv_head_count, "kv heads"),
        ("tp", layout.tp, model.ffn_size, "values of the feed-forward layer"),
        ("pp", layout.pp, model.layers, "layers"),
        ("ep", layout.ep, model.experts or 0, "experts"),
    ):
        if number % parts:
            divisors = ", ".join(str(size) for size in range(1, min(number, 64) + 1) if number % size == 0)
            raise UserError(
                f"{dimension} {parts} doesn't divide the {number} {what} of {workload.name}", f"give --{dimension} one of {divisors}"
            )
    if model.experts and layout.tp > 1:
        raise UserError(
            "experts with tensor parallel need sequence parallel, which Megatron-Core's local layers don't have", "use --tp 1 and --ep"
        )


def rank_parameters(workload: Workload, layout: Layout, trainer: TrainerName, *, experts: int, outer: int) -> int:
    """Of one rank: its part of the layers, with so many parameters of experts in each, and the `outer` ones, which Megatron-Core
    splits too."""
    layer = layer_parameters(workload) - expert_parameters(workload) + experts
    return workload.model.layers // layout.pp * layer // layout.tp + (outer // layout.tp if trainer == "megatron" else outer)
