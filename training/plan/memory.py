"""How much memory a rank will need, before it is started: weights, gradients, optimiser, activations, temporaries, process.

Activations are what autograd keeps for the backward pass, counted in elements of a position (the tests compare
them with what it really keeps): after Korthikanti et al., Reducing activation recomputation in large
transformer models, 2022, without dropout, for attention that keeps no scores (scaled_dot_product_attention) or
keeps them (Megatron-Core's local attention). A ResNet's are counted by the model itself, without memory.
On a CPU the C library keeps much of what is freed, in holes that don't fit the next step: a share on top.
An estimate: what was really used stands beside it in the summary.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.child.limits import available_memory_bytes
from bytemlperf.errors import UserError
from bytemlperf.lazy import torch
from training.plan.layout import Layout, TrainerName, rank_parameters
from training.workload.architectures import build_model, loss_of, zeros
from training.workload.choices import Sharding
from training.workload.flops import expert_parameters, layer_parameters, outer_parameters
from training.workload.workload import Workload

CPU_PROCESS_BYTES: dict[TrainerName, int] = {"torch": 470 << 20, "megatron": 420 << 20}
"""Resident size of a rank before the model, with the libraries of the trainer and a step's profile (measured)."""
CUDA_CONTEXT_BYTES = 800 << 20
ADAM_BYTES = 8
"""Two float32 moments a parameter."""
LOGIT_COPIES = 3
"""The logarithms of the probabilities, their gradient, and the logits' gradient."""
HOLES = 1.4
"""Activations on a CPU, with the holes between freed blocks: 1.2 (gpt, bert) to 1.5 (llama) times what is kept (measured)."""
ESTIMATE_BAND = 0.15
"""Measured runs used up to so much more or less than the estimate."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one rank."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    temporary_bytes: int
    process_bytes: int

    @property
    def total_bytes(self) -> int:
        held = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return held + self.activations_bytes + self.temporary_bytes + self.process_bytes


def estimate(workload: Workload, layout: Layout, trainer: TrainerName, sharding: Sharding, vocabulary: int, device: str) -> Estimate:
    """The fullest rank's memory."""
    if workload.family == "resnet":
        own, largest, activations = _counted(workload)
    else:
        experts, outer = expert_parameters(workload) // layout.ep, outer_parameters(workload, vocabulary)
        own = rank_parameters(workload, layout, trainer, experts=experts, outer=outer)
        largest = _largest_parameter(workload, layout, trainer, vocabulary)
        activations = _activations(workload, layout, trainer, vocabulary)
    kept = own // layout.dp if sharding == "fsdp" else own
    half = workload.training.precision == "bf16"
    extra = (layer_parameters(workload) // layout.tp) * (2 if half else 4) if sharding == "fsdp" else 0
    # The optimiser's denominators; a tied embedding's second gradient; DDP's buckets, which are laid out anew after the first step.
    temporary = max(2 * largest * 4, kept * 4 if sharding == "ddp" and layout.dp > 1 and trainer == "torch" else 0)
    return Estimate(
        weights_bytes=kept * (6 if half else 4) + extra,  # bf16 keeps a float32 copy
        gradients_bytes=kept * 4,
        optimizer_bytes=kept * ADAM_BYTES // (layout.dp if sharding == "zero1" else 1),
        activations_bytes=int(activations * (HOLES if device == "cpu" else 1.0)),
        temporary_bytes=temporary // (layout.dp if sharding == "fsdp" else 1),
        process_bytes=CUDA_CONTEXT_BYTES if device == "cuda" else CPU_PROCESS_BYTES.get(trainer, CPU_PROCESS_BYTES["torch"]),
    )


def _largest_parameter(workload: Workload, layout: Layout, trainer: TrainerName, vocabulary: int) -> int:
    """Elements: the embedding, or a feed-forward matrix (transformers keeps all experts' in one, two of them joined)."""
    model = workload.model
    embedding = vocabulary * model.hidden // (layout.tp if trainer == "megatron" else 1)
    together = 2 * (model.experts or 1) if model.experts and trainer == "torch" else 1
    return max(embedding, model.hidden * model.ffn_size * together // layout.tp)


def kept_elements(workload: Workload, layout: Layout, trainer: TrainerName) -> float:
    """Elements that a layer keeps of a position for the backward pass.

    h each: both residual sums and norms' results (4), q, the attention's result and its copy for the projection
    where it is split (4 with k and v of as many heads). gpt and bert: two of f. Llama: norms also keep what they
    scale (2), and four of f: gate, its activation, up, product. An expert has its own input and output as well.
    """
    model, tp = workload.model, layout.tp
    h, f = model.hidden, model.ffn_size
    keys_and_values = 2 * h * model.kv_head_count / model.heads
    if workload.family in ("gpt", "bert"):
        kept = 4 * h + (2 * h + keys_and_values + 2 * f) / tp
    else:
        experts = model.top_k if model.experts else 1
        kept = 6 * h + (2 * h + keys_and_values + experts * (4 * f + (2 * h if model.experts else 0))) / tp
    if trainer == "megatron":
        kept += 2 * model.seq_len * model.heads / tp
    return kept


def _activations(workload: Workload, layout: Layout, trainer: TrainerName, vocabulary: int) -> int:
    recipe, model = workload.training, workload.model
    element = 2 if recipe.precision == "bf16" else 4
    positions = recipe.micro_batch * model.seq_len
    kept = positions * kept_elements(workload, layout, trainer)
    layers = model.layers // layout.pp
    in_flight = layout.pp  # the first stage holds so many micro-batches
    inside = positions * model.hidden * layers + kept if recipe.recompute == "full" else kept * layers
    logits = LOGIT_COPIES * positions * vocabulary * 4 / (layout.tp if trainer == "megatron" else 1)
    return int(inside * element * in_flight + logits)


def _counted(workload: Workload) -> tuple[int, int, int]:
    """Parameters, the largest one's elements, and bytes kept for the backward pass of one micro-batch, of a ResNet
    that is built without memory (torch's `meta` device)."""
    with torch.device("meta"):
        model = build_model(workload, 0)
        sizes = [parameter.numel() for parameter in model.parameters()]
        return sum(sizes), max(sizes), kept_bytes(workload, model)


def kept_bytes(workload: Workload, model: Any) -> int:
    """Bytes that autograd keeps of a forward pass of one micro-batch on the default device, parameters left out."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of(workload, model, zeros(workload, workload.training.micro_batch))
    return sum(storage.nbytes() for storage in kept.values())


def check_memory(needed: Estimate, ranks_here: int, device: str, gpu_bytes: int | None) -> None:
    """Raises UserError when it can't fit what a rank on a GPU can have, or all ranks on this machine's CPU together."""
    there = gpu_bytes if device == "cuda" else available_memory_bytes()
    total = needed.total_bytes * (1 if device == "cuda" else ranks_here)
    if there is not None and total > there:
        of_ranks = "" if device == "cuda" or ranks_here == 1 else f" for {ranks_here} ranks of {gib(needed.total_bytes)}"
        raise UserError(
            f"not enough memory: about {gib(total)} (± {ESTIMATE_BAND:.0%}) needed{of_ranks}, {gib(there)} there",
            "lower --micro-batch, use --recompute full, --sharding fsdp or more ranks; or try anyway with --skip-memory-check",
        )


def gib(size: int) -> str:
    """Bytes for a person."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"
