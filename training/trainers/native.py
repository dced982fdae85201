"""The PyTorch trainer: DDP, FSDP2 (`fully_shard`), tensor parallel through DTensor, with AdamW.

Every rank draws the whole model from the same seed and then keeps its part, so that a loss curve
does not depend on the layout; a loss is a sum over the global batch's targets, so that it does not depend on the
micro-batch either. Tensor parallel splits attention heads and the feed-forward part as
Megatron-LM does (Shoeybi et al., 2019): columns first, then rows; embeddings, norms and head are whole
on every rank. bf16 is autocast over float32 weights with DDP, FSDP2's mixed precision otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, PrepareModuleInput, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from training.plan.plan import Plan
from training.trainers.contract import Phases, StepResult
from training.workload.architectures import build_model, loss_of, target_count

BETAS = (0.9, 0.95)
EPSILON = 1e-8

COLUMNS = ("q_proj", "k_proj", "v_proj", "fc1", "gate_proj", "up_proj")
ROWS = ("out_proj", "o_proj", "fc2", "down_proj")


class NativeTrainer:
    """A `Trainer`."""

    needs = ("torch", "transformers")

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self._workload = plan.read_workload()
        self._recipe = self._workload.training
        layout = plan.layout
        torch.manual_seed(plan.seed)
        model = build_model(self._workload, plan.vocabulary).to(device)
        self._device, self._sharded = device, plan.sharding == "fsdp"
        mesh = _mesh(plan)
        if layout.tp > 1:
            _split_tensors(model, mesh["tp"], layout.tp)
        self._phases: Phases | None = None
        self._model, self._ddp = model, False
        if self._sharded:
            _shard(model, mesh["dp"], self._recipe.precision)
        elif layout.dp > 1:
            self._model, self._ddp = self._replicate(model, device), True
        self._plain = model
        self._optimizer = torch.optim.AdamW(
            _groups(model, self._recipe.weight_decay), lr=self._recipe.learning_rate, betas=BETAS, eps=EPSILON
        )
        self.data_ranks = layout.dp
        self.data_rank = mesh["dp"].get_local_rank() if layout.world > 1 else 0
        self._group = mesh["dp"].get_group() if layout.dp > 1 else None

    def _replicate(self, model: torch.nn.Module, device: torch.device) -> DistributedDataParallel:
        ids = [device.index] if device.type == "cuda" else None
        statistics = self._workload.family == "resnet"  # the only buffers that change: batch norm's
        ddp = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=statistics)

        def stamped(state, bucket):  # type: ignore[no-untyped-def]  # torch looks at the annotations, and wants its own or none
            if self._phases is not None:
                self._phases.start("sync")  # the last bucket's stamp stays: from then on nothing is left to compute
            return allreduce_hook(state, bucket)

        ddp.register_comm_hook(None, stamped)
        return ddp

    def step(self, batches: Sequence[Any], learning_rate: float, phases: Phases) -> StepResult:
        """One optimiser step over the micro-batches."""
        self._phases = phases
        # Data parallel groups average gradients, and the step loop losses, where both are to be sums.
        scale = self.data_ranks / self._targets(batches)
        total = torch.zeros((), device=self._device)
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            if self._sharded:
                self._plain.set_requires_gradient_sync(last)
            with self._model.no_sync() if self._ddp and not last else nullcontext():
                with phases.within("forward"), self._precision():
                    loss = loss_of(self._workload, self._model, _to(batch, self._device)) * scale
                with phases.within("backward"):
                    loss.backward()
            total += loss.detach()
        if self._ddp:
            phases.stop("sync")
        with phases.within("optimizer"):
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            norm = clip(self._plain, self._recipe.clip)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=not self._ddp)
        return StepResult(float(total), float(norm))

    def _targets(self, batches: Sequence[Any]) -> int:
        """Targets of the global batch. Only BERT's holes differ from rank to rank, and are asked for."""
        mine = sum(target_count(self._workload, batch) for batch in batches)
        if self._workload.family != "bert" or self._group is None:
            return mine * self.data_ranks
        counted = torch.tensor(mine, device=self._device)
        dist.all_reduce(counted, group=self._group)
        return int(counted)

    def _precision(self) -> AbstractContextManager[None]:
        if self._recipe.precision == "bf16" and not self._sharded:
            return torch.autocast(self._device.type, dtype=torch.bfloat16)
        return nullcontext()

    def parameters(self) -> Sequence[tuple[str, torch.Tensor]]:
        """Names and this rank's own part of each parameter."""
        return [(name, _local(parameter)) for name, parameter in self._plain.named_parameters()]

    def state(self) -> dict[str, Any]:
        """Model and optimiser under full names, in a form that another layout can load."""
        model, optimizer = get_state_dict(self._plain, self._optimizer)
        return {"model": model, "optimizer": optimizer}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        set_state_dict(self._plain, self._optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def clip(model: torch.nn.Module, most: float) -> torch.Tensor:
    """Scale the gradients down to a total norm of `most`; returns the norm before. Parameters that are
    split differently (or not at all) can't be stacked, so each kind's norm is taken by itself."""
    kinds: dict[Any, list[torch.nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.grad is not None:
            kinds[_split_of(parameter.grad)].append(parameter)
    norms = [torch.nn.utils.get_total_norm([parameter.grad for parameter in group]) for group in kinds.values()]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total = torch.linalg.vector_norm(torch.stack(whole))
    factor = torch.clamp(most / (total + 1e-6), max=1.0)
    for group in kinds.values():
        for parameter in group:
            _local(parameter.grad).mul_(factor)
    return total


def _split_of(tensor: torch.Tensor) -> Any:
    """How a tensor is split over ranks; None for one that is whole."""
    return (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, dict):
        return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    return batch.to(device, non_blocking=True)


def _mesh(plan: Plan) -> DeviceMesh:
    """Over the ranks, data parallel before tensor parallel; None for a rank alone."""
    if plan.layout.world == 1:
        return None
    return init_device_mesh(plan.device, (plan.layout.dp, plan.layout.tp), mesh_dim_names=("dp", "tp"))


def _split_tensors(model: torch.nn.Module, mesh: DeviceMesh, parts: int) -> None:
    # The inputs are marked as whole once, so that q, k and v (gate and up) share one sum of their input's gradients.
    whole = Replicate()
    attention = PrepareModuleInput(input_kwarg_layouts={"hidden_states": whole}, desired_input_kwarg_layouts={"hidden_states": whole})
    feed_forward = PrepareModuleInput(input_layouts=(whole,), desired_input_layouts=(whole,))
    for layer in _layers(model):
        styles: dict[str, Any] = {"self_attn": attention}
        if hasattr(layer, "mlp"):
            styles["mlp"] = feed_forward
        for name, _ in layer.named_modules():
            leaf = name.rpartition(".")[2]
            if leaf in COLUMNS:
                styles[name] = ColwiseParallel()
            elif leaf in ROWS:
                styles[name] = RowwiseParallel()
        parallelize_module(layer, mesh, styles)
        if hasattr(layer.self_attn, "num_heads"):
            layer.self_attn.num_heads //= parts  # OPT asks its own attribute, Llama the shape


def _shard(model: torch.nn.Module, mesh: DeviceMesh, precision: str) -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if precision == "bf16" else MixedPrecisionPolicy()
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The transformer layers, whatever the architecture calls them."""
    stacks = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(stacks, key=len)


def _groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors don't; parameters of one group are split alike, so that they can be stacked."""
    groups: dict[Any, list[torch.nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        groups[parameter.ndim > 1, _split_of(parameter)].append(parameter)
    return [{"params": members, "weight_decay": decay if matrix else 0.0} for (matrix, _), members in groups.items()]
