"""Arithmetic of a workload, counted from its sizes: parameters, and the floating-point operations of a sample.

A multiply-add counts as two operations. Only matrix products are counted, attention over the full
square of positions, causal or not (Chowdhery et al., PaLM, 2022, appendix B; Narayanan et al., Efficient
large-scale language model training on GPU clusters using Megatron-LM, SC 2021, appendix). The backward
pass costs twice the forward one. What recomputation does again is no progress: it counts into the
hardware's work, never into MFU.
"""

from __future__ import annotations

from training.workload.workload import Workload

FORWARD_AND_BACKWARD = 3
MFU_FORMULA = "MFU = model FLOPs of a sample x samples/s / (devices x peak FLOP/s); model FLOPs = 3 x forward FLOPs"
HFU_FORMULA = "HFU = the same with the layers' forward pass once more where they are recomputed"


def forward_formula(workload: Workload) -> str:
    """The forward FLOPs of a sample in words, with this workload's sizes."""
    if workload.family == "resnet":
        return "forward FLOPs counted by torch.utils.flop_counter on the model itself"
    model = workload.model
    feed = {"gpt": "4 s h f", "bert": "4 s h f", "llama": "6 s h f", "moe": "6 s h f k + 2 s h E"}[workload.family]
    per_head = model.hidden // model.heads
    sizes = f"L={model.layers}, s={model.seq_len}, h={model.hidden}, f={model.ffn_size}, g={model.kv_head_count}, d={per_head}"
    experts = f", E={model.experts}, k={model.top_k}" if model.experts else ""
    head = "2 s h V" + (" + 2 s h h" if workload.family == "bert" else "")
    return f"forward FLOPs = L (4 s h h + 4 s h g d + 4 s s h + {feed}) + {head} with {sizes}{experts}, V the vocabulary"


def layer_forward_flops(workload: Workload) -> int:
    """Forward FLOPs of one transformer layer for one sample (a sequence)."""
    model = workload.model
    s, h, f = model.seq_len, model.hidden, model.ffn_size
    kv = model.kv_head_count * (h // model.heads)
    attention = 4 * s * h * h + 4 * s * h * kv + 4 * s * s * h
    products = 2 if workload.family in ("gpt", "bert") else 3
    active = model.top_k if model.experts else 1
    router = 2 * s * h * model.experts if model.experts else 0
    return attention + 2 * products * s * h * f * active + router


def forward_flops(workload: Workload, vocabulary: int) -> int:
    """Forward FLOPs of one sample of a transformer."""
    model = workload.model
    s, h = model.seq_len, model.hidden
    head = 2 * s * h * vocabulary + (2 * s * h * h if workload.family == "bert" else 0)
    return model.layers * layer_forward_flops(workload) + head


def model_flops(workload: Workload, vocabulary: int) -> int:
    """FLOPs of a sample, forward and backward, as MFU counts them."""
    return FORWARD_AND_BACKWARD * forward_flops(workload, vocabulary)


def recomputed_flops(workload: Workload) -> int:
    """FLOPs of a sample that are done a second time in the backward pass."""
    return workload.model.layers * layer_forward_flops(workload) if workload.training.recompute == "full" else 0


def layer_parameters(workload: Workload) -> int:
    """Parameters of one transformer layer."""
    model = workload.model
    h, f = model.hidden, model.ffn_size
    kv = model.kv_head_count * (h // model.heads)
    weights = 2 * h * h + 2 * h * kv
    if workload.family in ("gpt", "bert"):
        return weights + 2 * h + 2 * kv + 2 * h * f + f + h + 4 * h
    return weights + 3 * h * f * (model.experts or 1) + h * (model.experts or 0) + 2 * h


def expert_parameters(workload: Workload) -> int:
    """Those of them that are the experts'."""
    return 3 * workload.model.hidden * workload.model.ffn_size * (workload.model.experts or 0)


def outer_parameters(workload: Workload, vocabulary: int) -> int:
    """Parameters outside the layers: embeddings, last norm, head."""
    model = workload.model
    h = model.hidden
    if workload.family == "gpt":
        return (vocabulary + model.seq_len) * h + 2 * h  # the head is the embedding
    if workload.family == "bert":  # segments, two norms with biases, the masked head's own layer and bias
        return (vocabulary + model.seq_len + 2) * h + 2 * h + h * h + h + 2 * h + vocabulary
    return 2 * vocabulary * h + h


def parameters(workload: Workload, vocabulary: int) -> int:
    """All parameters of a transformer."""
    return workload.model.layers * layer_parameters(workload) + outer_parameters(workload, vocabulary)
