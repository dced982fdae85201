"""Weights as arrays: of a torch module, of an ONNX file. What is sparse in them is measured, and torch's are saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from general_perf.backends.contract import SourceModel


def of_source(model: SourceModel) -> Iterator[np.ndarray[Any, Any]]:
    """The weights of a model that no backend has touched."""
    return of_onnx(model.onnx_path) if model.onnx_path is not None else of_module(model.module)


def of_module(module: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Each tensor of a module's state once, quantised ones as their integers; bf16 comes as float32, which holds the same zeros."""
    import torch

    seen = set()
    for _, tensor in plain_tensors(module.state_dict()):
        if (place := (tensor.data_ptr(), tensor.shape)) in seen:
            continue  # tied weights
        seen.add(place)
        yield (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def of_onnx(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    """Each initializer and constant of the graph, and of the graphs inside it (`If`, `Loop`)."""
    import onnx

    return _of_graph(onnx.load(str(path)).graph)


def _of_graph(graph: Any) -> Iterator[np.ndarray[Any, Any]]:
    from onnx import numpy_helper

    for tensor in graph.initializer:
        yield numpy_helper.to_array(tensor)
    for attribute in (each for node in graph.node for each in node.attribute):
        if attribute.HasField("t"):
            yield numpy_helper.to_array(attribute.t)
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _of_graph(inner)


def plain_tensors(state: Any) -> Iterator[tuple[str, Any]]:
    """Tensors by name, quantised weights as integers and scales. (Pickled as they are, they make Python look through every
    module for the name of their dtype, which imports whatever is lazy.)"""
    import torch

    for name, value in state.items():
        for place, each in enumerate(value if isinstance(value, tuple) else (value,)):
            if not isinstance(each, torch.Tensor):
                continue
            if each.is_quantized:
                yield f"{name}.{place}.int", each.int_repr()
                alike = each.qscheme() == torch.per_tensor_affine
                yield f"{name}.{place}.scale", torch.as_tensor(each.q_scale()) if alike else each.q_per_channel_scales()
            else:
                yield f"{name}.{place}" if isinstance(value, tuple) else name, each.detach()
