"""The Megatron-Core trainer: its GPT model, its parallel groups, schedules, gradient buffers and optimiser.

Tensor, pipeline, data and expert parallel are Megatron-Core's own, with its "local" layers (no
Transformer Engine), so that the same code runs on GPUs with NCCL and on CPUs with gloo. Weights are
drawn on the CPU from one seed, so that tensor parallel ranks hold parts of the same model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from training.plan.plan import Plan
from training.trainers import megatron_cpu
from training.trainers.contract import Phase, Phases, StepResult
from training.trainers.native import BETAS, EPSILON
from training.workload.workload import Workload

TIMED: dict[str, Phase] = {"forward-compute": "forward", "backward-compute": "backward", "all-grads-sync": "sync"}
"""Megatron-Core's names of what it times, and ours."""


class MegatronTrainer:
    """A `Trainer`."""

    needs = ("torch", "megatron")

    def __init__(self, plan: Plan, device: torch.device) -> None:
        from megatron.core import parallel_state
        from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
        from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
        from megatron.core.pipeline_parallel import get_forward_backward_func

        self._workload, self._device = plan.read_workload(), device
        recipe, layout = self._workload.training, plan.layout
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tp,
            pipeline_model_parallel_size=layout.pp,
            expert_model_parallel_size=layout.ep,
        )
        self._seed(plan)
        bf16, shared = recipe.precision == "bf16", plan.sharding == "zero1"
        with self._standing_in():
            model = _model(plan, self._workload, bf16).to(device)
            if bf16:
                from megatron.core.transformer.module import Float16Module

                model = Float16Module(model.config, model)
            self._config = model.config
            settings = DistributedDataParallelConfig(
                grad_reduce_in_fp32=True, overlap_grad_reduce=False, use_distributed_optimizer=shared, check_for_nan_in_grad=False
            )
            self._model = DistributedDataParallel(self._config, settings, model)
            self._optimizer = get_megatron_optimizer(
                OptimizerConfig(
                    optimizer="adam",
                    lr=recipe.learning_rate,
                    weight_decay=recipe.weight_decay,
                    adam_beta1=BETAS[0],
                    adam_beta2=BETAS[1],
                    adam_eps=EPSILON,
                    clip_grad=recipe.clip,
                    bf16=bf16,
                    use_distributed_optimizer=shared,
                    params_dtype=torch.bfloat16 if bf16 else torch.float32,
                ),
                [self._model],
            )
        self._config.finalize_model_grads_func = finalize_model_grads
        self._config.grad_scale_func = self._optimizer.scale_loss
        self._forward_backward = get_forward_backward_func()
        self.data_rank = parallel_state.get_data_parallel_rank()
        self.data_ranks = parallel_state.get_data_parallel_world_size()

    def _seed(self, plan: Plan) -> None:
        if plan.device == "cpu":
            megatron_cpu.install()
        else:
            from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

            model_parallel_cuda_manual_seed(plan.seed)
        torch.manual_seed(plan.seed)

    def _standing_in(self) -> AbstractContextManager[Any]:
        if self._device.type != "cpu":
            return nullcontext()
        return megatron_cpu.OnCpu()

    def step(self, batches: Sequence[Any], learning_rate: float, phases: Phases) -> StepResult:
        """One optimiser step over the micro-batches, in Megatron-Core's schedule for this layout."""
        self._config.timers = PhaseTimers(phases)
        with self._standing_in():
            self._model.zero_grad_buffer()
            self._optimizer.zero_grad()
            losses = self._forward_backward(
                forward_step_func=self._forward,
                data_iterator=iter(batches),
                model=[self._model],
                num_microbatches=len(batches),
                seq_length=self._workload.model.seq_len,
                micro_batch_size=self._workload.training.micro_batch,
                forward_only=False,
            )
            with phases.within("optimizer"):
                for group in self._optimizer.param_groups:
                    group["lr"] = learning_rate
                _, norm, _ = self._optimizer.step()
        loss = sum(float(part["loss"]) for part in losses) / len(losses) if losses else None
        return StepResult(loss, float(norm) if norm is not None else float("nan"))

    def _forward(self, batches: Iterator[Any], model: Any) -> tuple[Any, Any]:
        """Megatron-Core's forward step: the model's output, and the function that makes a loss of it."""
        batch = next(batches).to(self._device, non_blocking=True)
        tokens, labels = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
        positions = torch.arange(tokens.shape[1], device=self._device).expand(tokens.shape)

        def loss_of(output: Any) -> tuple[Any, dict[str, Any]]:
            loss = output.float().mean()  # every micro-batch has the same number of tokens: their mean is the global one
            return loss, {"loss": loss.detach().clone()}  # Megatron-Core divides `loss` by the micro-batches in place

        return model(tokens, positions, None, labels=labels), loss_of

    def parameters(self) -> Sequence[tuple[str, torch.Tensor]]:
        """Names and this rank's own part of each parameter."""
        return list(self._model.named_parameters())

    def state(self) -> dict[str, Any]:
        """Model and optimiser under this rank's name: for the same layout only."""
        model = {name: tensor for name, tensor in self._model.state_dict().items() if tensor is not None and hasattr(tensor, "shape")}
        return {f"rank{dist.get_rank()}": {"model": model, "optimizer": self._optimizer_state()}}

    def _optimizer_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for name, optimizer, parameter in _optimized(self._optimizer):
            if not optimizer.state[parameter]:  # before the first step: as torch's Adam would make it
                moments = {moment: torch.zeros_like(parameter) for moment in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.zeros(()), **moments}
            state[name] = {**optimizer.state[parameter], "master": parameter.data}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there: `load` has filled the optimiser's own tensors already."""
        mine = state[f"rank{dist.get_rank()}"]
        self._model.load_state_dict(mine["model"], strict=False)
        for name, optimizer, parameter in _optimized(self._optimizer):
            for key, value in mine["optimizer"][name].items():
                if key == "master":
                    parameter.data.copy_(value)
                else:
                    optimizer.state[parameter][key] = value


class PhaseTimers:
    """Megatron-Core's timers, as it calls them, onto our phases."""

    def __init__(self, phases: Phases) -> None:
        self._phases = phases

    def __call__(self, name: str, log_level: int = 0) -> Any:  # noqa: ARG002  # theirs
        return _Timer(self._phases, TIMED.get(name))


class _Timer:
    def __init__(self, phases: Phases, phase: Any) -> None:
        self._phases, self._phase = phases, phase

    def start(self, barrier: bool = False) -> None:  # noqa: ARG002
        if self._phase is not None:
            self._phases.start(self._phase)

    def stop(self, barrier: bool = False) -> None:  # noqa: ARG002
        if self._phase is not None:
            self._phases.stop(self._phase)


def _optimized(optimizer: Any) -> Iterator[tuple[str, torch.optim.Optimizer, torch.Tensor]]:
    """Every parameter with a name, and torch's own optimiser of it inside Megatron-Core's (one for dense, one for experts)."""
    chained = getattr(optimizer, "chained_optimizers", None) or [optimizer]
    own = [link.optimizer for link in chained if getattr(link, "optimizer", None) is not None]
    for index, inner in enumerate(own):
        for number, parameter in enumerate(parameter for group in inner.param_groups for parameter in group["params"]):
            yield f"{index}.{number}", inner, parameter


def _model(plan: Plan, workload: Workload, bf16: bool) -> Any:
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel

    plain = workload.family == "gpt"
    spec = get_gpt_layer_local_spec(num_experts=workload.model.experts, moe_grouped_gemm=False, normalization=None if plain else "RMSNorm")
    return GPTModel(
        _config(plan, workload, bf16),
        spec,
        vocab_size=plan.vocabulary,
        max_sequence_length=workload.model.seq_len,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=plain,
        position_embedding_type="learned_absolute" if plain else "rope",
    )


def _config(plan: Plan, workload: Workload, bf16: bool) -> Any:
    from megatron.core.transformer.transformer_config import TransformerConfig

    size, layout = workload.model, plan.layout
    dtype = torch.bfloat16 if bf16 else torch.float32
    recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return TransformerConfig(
        num_layers=size.layers,
        hidden_size=size.hidden,
        num_attention_heads=size.heads,
        num_query_groups=size.kv_head_count,
        ffn_hidden_size=size.ffn_size,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        expert_model_parallel_size=layout.ep,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=bf16,
        use_cpu_initialization=True,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        init_method_std=0.02,
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
        batch_p2p_sync=False,
        barrier_with_L1_time=False,
        **(recompute if workload.training.recompute == "full" else {}),
        **_family(workload),
    )


def _family(workload: Workload) -> dict[str, Any]:
    """What tells a GPT, a Llama-like model and a mixture of experts apart."""
    if workload.family == "gpt":
        return {"normalization": "LayerNorm", "activation_func": torch.nn.functional.gelu, "add_bias_linear": True}
    llama = {
        "normalization": "RMSNorm",
        "gated_linear_unit": True,
        "activation_func": torch.nn.functional.silu,
        "add_bias_linear": False,
    }
    if workload.family == "llama":
        return llama
    return {
        **llama,
        "num_moe_experts": workload.model.experts,
        "moe_router_topk": workload.model.top_k,
        "moe_ffn_hidden_size": workload.model.ffn_size,
        "moe_token_dispatcher_type": "allgather",
        "moe_grouped_gemm": False,
        "moe_router_load_balancing_type": "seq_aux_loss",  # by sequence: over a micro-batch it would depend on its size
        "moe_aux_loss_coeff": 0.01,
    }
