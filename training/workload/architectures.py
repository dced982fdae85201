"""From a workload to a model: transformers' own architectures with random weights, no dropout.

GPT is transformers' OPT: pre-layer-norm, learned positions, GELU, the head tied to the embedding,
which is GPT-2's and Megatron-LM's architecture with separate projections for query, key and value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bytemlperf.models.torch_flops import count_call
from training.workload.workload import IGNORED_LABEL, IMAGE_PIXELS, Workload

if TYPE_CHECKING:
    import torch
else:
    from bytemlperf.lazy import torch

INIT_STD = 0.02
DIGIT_CLASSES = 10
CLASSES = {
    "gpt": ("OPTConfig", "OPTForCausalLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "moe": ("MixtralConfig", "MixtralForCausalLM"),
    "bert": ("BertConfig", "BertForMaskedLM"),
    "resnet": ("ResNetConfig", "ResNetForImageClassification"),
}
"""transformers' configuration and model of each family."""


def build_model(workload: Workload, vocabulary: int) -> torch.nn.Module:
    """The model with weights drawn from torch's default generator, float32, on the default device."""
    import transformers

    config, model_class = (getattr(transformers, name) for name in CLASSES[workload.family])
    model = model_class(config(**_settings(workload, vocabulary)))
    if workload.training.recompute == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def _settings(workload: Workload, vocabulary: int) -> dict[str, Any]:
    """What the family's configuration is made of."""
    size = workload.model
    if workload.family == "resnet":
        widths, depths = size.widths or [], size.depths or []
        kind = "bottleneck" if widths[0] >= 256 else "basic"
        sizes = {"num_channels": 3, "embedding_size": 64, "hidden_sizes": list(widths), "depths": list(depths)}
        return {**sizes, "layer_type": kind, "num_labels": DIGIT_CLASSES}
    transformer = {
        "vocab_size": vocabulary,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "max_position_embeddings": size.seq_len,
        "pad_token_id": None,
    }
    if workload.family == "bert":
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return {**transformer, **dropout, "intermediate_size": size.ffn_size, "tie_word_embeddings": True}
    decoder = {**transformer, "use_cache": False, "bos_token_id": None, "eos_token_id": None}
    if workload.family == "gpt":
        dropout = {"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}
        return {**decoder, **dropout, "ffn_dim": size.ffn_size, "activation_function": "gelu", "init_std": INIT_STD}
    llama = {
        **decoder,
        "intermediate_size": size.ffn_size,
        "num_key_value_heads": size.kv_head_count,
        "initializer_range": INIT_STD,
        "tie_word_embeddings": False,
    }
    return llama if workload.family == "llama" else {**llama, "num_local_experts": size.experts, "num_experts_per_tok": size.top_k}


def loss_of(workload: Workload, model: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Cross entropy of a micro-batch, summed over its targets (`target_count`), a scalar tensor. A mean would
    weigh a target by how many others share its micro-batch."""
    cross_entropy = torch.nn.functional.cross_entropy
    if workload.family == "resnet":
        return cross_entropy(model(pixel_values=batch["image"]).logits.float(), batch["label"], reduction="sum")
    if workload.family == "bert":
        inputs, labels = batch[:, 0], batch[:, 1]
        logits = model(input_ids=inputs, attention_mask=None).logits
    else:
        inputs, labels = batch[:, :-1], batch[:, 1:]
        positions = torch.arange(inputs.shape[1], device=inputs.device).expand(inputs.shape)
        logits = model(input_ids=inputs, position_ids=positions).logits
    return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED_LABEL)


def target_count(workload: Workload, batch: Any) -> int:
    """How many targets the loss of a micro-batch is summed over: images, holes, or tokens."""
    if workload.family == "resnet":
        return len(batch["label"])
    if workload.family == "bert":
        return int((batch[:, 1] != IGNORED_LABEL).sum())
    samples, window = batch.shape
    return int(samples * (window - 1))


def forward_flops_of_a_sample(workload: Workload, vocabulary: int, device: str = "meta") -> int:
    """Forward FLOPs of one sample, counted by torch; without memory on the `meta` device (transformers'
    decoders look into their masks and need a real one). Two samples are counted: batch norm needs them."""
    with torch.device(device):
        model, samples = build_model(workload, vocabulary), zeros(workload, 2)
        return count_call(lambda: loss_of(workload, model, samples), ()).flops // 2


def zeros(workload: Workload, samples: int) -> Any:
    """A micro-batch of the workload's shapes, on the default device."""
    if workload.family == "resnet":
        return {"image": torch.zeros(samples, 3, IMAGE_PIXELS, IMAGE_PIXELS), "label": torch.zeros(samples, dtype=torch.long)}
    length = workload.model.seq_len
    return torch.zeros((samples, 2, length) if workload.family == "bert" else (samples, length + 1), dtype=torch.long)
