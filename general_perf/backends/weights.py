"""Weights as arrays: of a torch module, of an ONNX file. What is sparse in them is measured, and torch's are saved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from general_perf.backends.contract import SourceModel


HELD = {"float32": "fp32", "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8", "int4": "int4"}
"""Precisions by the names that torch, ONNX and profiles have for number formats."""


def held_by(values: Mapping[str, int]) -> str:
    """The precision of most values, given how many there are of each number format; fp32 where there are none."""
    return HELD.get(name := max(values, key=values.__getitem__, default="float32"), name)


def held_by_module(module: Any) -> str:
    """Of a torch module's weights with two axes or more."""
    values: Counter[str] = Counter()
    for tensor in module.state_dict().values():
        if getattr(tensor, "ndim", 0) > 1:
            values[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return held_by({name: count for name, count in values.items() if name != "int64"})


def held_by_onnx(model: Any) -> str:
    """Of an ONNX model's initializers with two axes or more."""
    from onnx import TensorProto

    values: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            values[TensorProto.DataType.Name(tensor.data_type).lower()] += math.prod(tensor.dims)
    return held_by({name.replace("uint4", "int4"): count for name, count in values.items() if name not in ("int64", "int32", "bool")})


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
