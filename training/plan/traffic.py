"""What the ranks send each other in a step, worked out on paper."""

from __future__ import annotations

from collections import Counter

from bytemlperf.child.ranks import bus_factor
from training.plan.layout import rank_parameters
from training.plan.plan import Plan
from training.results.records import Transfer
from training.workload.flops import expert_parameters, layer_parameters, outer_parameters


def transfer(op: str, group: int, calls: int, size: int) -> Transfer:
    """A `Transfer` with its bus bytes."""
    return Transfer(op=op, group=group, calls=calls, bytes=size, bus_bytes=round(size * bus_factor(op, group)))


def analytic(plan: Plan) -> list[Transfer]:
    """The volume of a step on rank 0 by the textbook (Rajbhandari et al., ZeRO, 2020; Shoeybi et al.,
    Megatron-LM, 2019). Empty for a ResNet, whose parameters only the model itself knows."""
    workload, layout = plan.read_workload(), plan.layout
    if workload.family == "resnet" or layout.world == 1:
        return []
    size, recipe = workload.model, workload.training
    micro_batches = recipe.global_batch // (recipe.micro_batch * layout.dp)
    layers = size.layers // layout.pp
    element = 2 if recipe.precision == "bf16" else 4
    activation = recipe.micro_batch * size.seq_len * size.hidden * element
    volumes: Counter[tuple[str, int]] = Counter()
    if layout.tp > 1:  # two sums of activations a layer forward, two backward; Megatron splits the vocabulary too
        sums = 4 * layers + (2 if recipe.recompute == "full" else 0) * layers
        if plan.trainer == "megatron":
            sums += (1 if layout.pp == 1 else 0) + 1
        volumes["all_reduce", layout.tp] += sums * micro_batches * activation
    if layout.pp > 1:  # the first stage sends every micro-batch's activations on
        volumes["p2p", layout.pp] += micro_batches * activation
        if workload.family == "gpt":  # first and last stage share the embedding's gradient
            volumes["all_reduce", 2] += plan.vocabulary // layout.tp * size.hidden * 4
    if layout.ep > 1:  # every rank of the group gets all its tokens, with their routing; backward the other way
        places = layout.ep * recipe.micro_batch * size.seq_len
        tokens = layers * micro_batches * 2 * places * size.hidden * element
        routing = layers * micro_batches * places * (size.experts or 0) * 4
        volumes["all_gather", layout.ep] += tokens + routing + routing // 4
        volumes["reduce_scatter", layout.ep] += tokens + routing
    experts = 0 if layout.ep > 1 else expert_parameters(workload)  # of whose gradients rank 0 shares none with its data parallel group
    outer = outer_parameters(workload, plan.vocabulary) // (2 if layout.pp > 1 else 1)
    weights = rank_parameters(workload, layout, plan.trainer, experts=experts, outer=outer)
    if layout.dp > 1 and plan.sharding == "fsdp":
        layer_weights = layers * layer_parameters(workload) // layout.tp
        gathered = micro_batches * (2 * layer_weights + (weights - layer_weights))
        volumes["all_gather", layout.dp] += gathered * element
        volumes["reduce_scatter", layout.dp] += weights * 4
    elif layout.dp > 1 and plan.sharding == "zero1":
        volumes["all_gather", layout.dp] += weights * element
        volumes["reduce_scatter", layout.dp] += weights * 4
    elif layout.dp > 1:
        volumes["all_reduce", layout.dp] += weights * 4
    return [transfer(op, group, 0, amount) for (op, group), amount in sorted(volumes.items())]
