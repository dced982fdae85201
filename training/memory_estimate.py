"""How much memory a rank will need, before it is started: weights, gradients, optimiser, activations.

Activations after Korthikanti et al., Reducing activation recomputation in large transformer models, 2022,
without dropout, for attention that keeps no scores (scaled_dot_product_attention) or keeps them (Megatron-
Core's local attention). An estimate: what was really used stands beside it in the summary.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from bytemlperf_llm.errors import UserError
from training.flops import layer_parameters, outer_parameters
from training.layout import Layout, Sharding, TrainerName
from training.workload import Workload

CPU_PROCESS_BYTES = 420 << 20
"""Resident size of a rank with torch and transformers loaded, before the model."""
CUDA_CONTEXT_BYTES = 800 << 20
ADAM_BYTES = 8
"""Two float32 moments a parameter."""
ELEMENTS_KEPT = 16
"""Activations of h elements that a position of a pre-norm GPT layer keeps for the backward pass: two norms, their
inputs, q, k, v, the attention's result, and 2 x 4 of the feed-forward part."""
LOGIT_COPIES = 3
"""Logits, their float32 copy or softmax, and their gradient."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one rank."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    process_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes + self.process_bytes


def estimate(workload: Workload, layout: Layout, trainer: TrainerName, sharding: Sharding, vocabulary: int, device: str) -> Estimate:
    """The fullest rank's memory. A ResNet's parameters are taken from its convolutions' sizes, roughly."""
    process = CUDA_CONTEXT_BYTES if device == "cuda" else CPU_PROCESS_BYTES
    own = _own_parameters(workload, layout, trainer, vocabulary)
    kept = own // layout.dp if sharding == "fsdp" else own
    half = workload.training.precision == "bf16"
    extra = (layer_parameters(workload) // layout.tp) * (2 if half else 4) if sharding == "fsdp" and workload.family != "resnet" else 0
    weights = kept * (6 if half else 4) + extra  # bf16 keeps a float32 copy
    return Estimate(
        weights_bytes=weights,
        gradients_bytes=kept * 4,
        optimizer_bytes=kept * ADAM_BYTES,
        activations_bytes=_activations(workload, layout, trainer, vocabulary),
        process_bytes=process,
    )


def _own_parameters(workload: Workload, layout: Layout, trainer: TrainerName, vocabulary: int) -> int:
    if workload.family == "resnet":
        widths, depths = workload.model.widths or [], workload.model.depths or []
        return sum(depth * width * width * 9 // 2 for width, depth in zip(widths, depths, strict=True))
    model = workload.model
    layer = layer_parameters(workload)
    if model.experts:
        experts = 3 * model.hidden * model.ffn_size * model.experts
        layer = layer - experts + experts // layout.ep
    outer = outer_parameters(workload, vocabulary)
    return model.layers // layout.pp * layer // layout.tp + (outer // layout.tp if trainer == "megatron" else outer)


def _activations(workload: Workload, layout: Layout, trainer: TrainerName, vocabulary: int) -> int:
    recipe, model = workload.training, workload.model
    element = 2 if recipe.precision == "bf16" else 4
    if workload.family == "resnet":
        return (
            recipe.micro_batch
            * sum(depth * width * 64 * 6 for width, depth in zip(model.widths or [], model.depths or [], strict=True))
            * element
        )
    positions = recipe.micro_batch * model.seq_len
    wide = (model.ffn_size / model.hidden - 4) * (2 if workload.family in ("gpt", "bert") else 3)
    active = model.top_k if model.experts else 1
    kept = positions * model.hidden * (6 + (10 + wide * active) / layout.tp)
    if trainer == "megatron":
        kept += 2 * positions * model.seq_len * model.heads / layout.tp
    layers = model.layers // layout.pp
    in_flight = layout.pp  # the first stage holds so many micro-batches
    inside = positions * model.hidden * layers + kept if recipe.recompute == "full" else kept * layers
    logits = LOGIT_COPIES * positions * vocabulary * 4 / (layout.tp if trainer == "megatron" else 1)
    return int(inside * element * in_flight + logits)


def available_bytes(device: str, gpu_bytes: int | None) -> int | None:
    """What a rank on a device of its own can have, or all ranks of this machine together; None where it can't be told."""
    if device == "cuda":
        return gpu_bytes
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limits = [_limit("/sys/fs/cgroup/memory.max")]
    return min([*found, *[limit for limit in limits if limit]], default=None)


def _limit(path: str) -> int | None:
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def check_memory(needed: Estimate, ranks_here: int, device: str, gpu_bytes: int | None) -> None:
    """Raises UserError when it can't fit."""
    there = available_bytes(device, gpu_bytes)
    total = needed.total_bytes * (1 if device == "cuda" else ranks_here)
    if there is not None and total > there:
        each = "" if device == "cuda" else f" for {ranks_here} ranks of {gib(needed.total_bytes)}"
        raise UserError(
            f"not enough memory: about {gib(total)} needed{each}, {gib(there)} there",
            "lower --micro-batch, take --recompute full, --sharding fsdp or more ranks; --skip-memory-check tries all the same",
        )


def gib(size: int) -> str:
    """Bytes for a person."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"
