"""A torch module's tensors: what it is called with, and its weights as arrays, by precision, as a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from general_perf.backends.contract import Array, Arrays, SourceModel, held_by

if TYPE_CHECKING:
    import torch
else:
    from bytemlperf.lazy import torch


def tensors_of(inputs: Arrays, model: SourceModel) -> tuple[torch.Tensor, ...]:
    """The inputs as tensors, in the model's order."""
    return tuple(torch.from_numpy(inputs[name]) for name in model.input_names)


def floats_as(dtype: torch.dtype, tensors: Iterable[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Tensors with floats of one type; integers stay."""
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors)


def held_by_module(module: torch.nn.Module) -> str:
    """The precision of a module's weights with two axes or more."""
    values: Counter[str] = Counter()
    for tensor in module.state_dict().values():
        if getattr(tensor, "ndim", 0) > 1:
            values[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return held_by({name: count for name, count in values.items() if name != "int64"})


def weights_of_module(module: torch.nn.Module) -> Iterator[Array]:
    """Each tensor of a module's state once, quantised ones as their integers; bf16 comes as float32, which holds the same zeros."""
    seen = set()
    for _, tensor in _plain_tensors(module.state_dict()):
        if (memory := (tensor.data_ptr(), tensor.shape)) in seen:
            continue  # tied weights
        seen.add(memory)
        yield (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def save_weights(module: torch.nn.Module, work: Path) -> Path:
    """What would be shipped: the state as plain tensors, written as torch writes them (read back with weights_only)."""
    path = work / "model.pt"
    if isinstance(module, torch.jit.ScriptModule):
        module.save(str(path))
    else:
        torch.save(dict(_plain_tensors(module.state_dict())), path)
    return path


def _plain_tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by name, quantised weights as integers and scales. (Pickled as they are, they make Python look through every
    module for the name of their dtype, which imports whatever is lazy.)"""
    for name, value in state.items():
        for index, tensor in enumerate(value if isinstance(value, tuple) else (value,)):
            if not isinstance(tensor, torch.Tensor):
                continue
            if tensor.is_quantized:
                yield f"{name}.{index}.int", tensor.int_repr()
                alike = tensor.qscheme() == torch.per_tensor_affine
                yield f"{name}.{index}.scale", torch.as_tensor(tensor.q_scale()) if alike else tensor.q_per_channel_scales()
            else:
                yield f"{name}.{index}" if isinstance(value, tuple) else name, tensor.detach()
