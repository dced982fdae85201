"""The workload's operators against float64: forward results and gradients, at the workload's own sizes.

ByteMLPerf asks for an error under 1e-5. It is the largest difference over the largest value of the
float64 result, in float32: the type in which a training step can be compared so closely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch.nn import functional

from training.results.records import OperatorRecord
from training.workload.workload import Workload

ERROR_LIMIT = 1e-5
MOST_ROWS = 256
"""Positions that are checked at most: an operator's error depends on the length of its sums, not on their number."""
MOST_VOCABULARY = 8192

Operator = Callable[..., torch.Tensor]


def check_operators(workload: Workload, vocabulary: int, device: torch.device, seed: int) -> Iterator[OperatorRecord]:
    """One record for each operator and direction."""
    generator = torch.Generator().manual_seed(seed)
    for name, operator, shapes in _operators(workload, vocabulary):
        inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        shape = " ".join("x".join(map(str, sizes)) for sizes in shapes)
        try:
            forward, backward = _errors(operator, inputs, device)
        except RuntimeError as error:
            yield _record(name, "forward", shape, None, str(error).splitlines()[0])
            continue
        yield _record(name, "forward", shape, forward)
        yield _record(name, "backward", shape, backward)


def _record(name: str, direction: Literal["forward", "backward"], shape: str, error: float | None, reason: str = "") -> OperatorRecord:
    if error is not None and not error < ERROR_LIMIT:
        reason = f"error {error:.2g} is not below {ERROR_LIMIT:g}"
    status: Literal["ok", "failed"] = "failed" if reason else "ok"
    return OperatorRecord(op=name, direction=direction, shape=shape, status=status, error=error, limit=ERROR_LIMIT, reason=reason)


def _errors(operator: Operator, inputs: list[torch.Tensor], device: torch.device) -> tuple[float, float]:
    exact, exact_gradients = _run(operator, inputs)
    rough, rough_gradients = _run(operator, [value.to(device=device).float() for value in inputs])
    return _distance(rough, exact), max(map(_distance, rough_gradients, exact_gradients))


def _run(operator: Operator, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    result = operator(*leaves)
    weights = torch.linspace(0.5, 1.5, result.numel(), dtype=torch.float64).reshape(result.shape)
    result.backward(weights.to(device=result.device, dtype=result.dtype))
    return result.detach(), [leaf.grad for leaf in leaves]


def _distance(rough: torch.Tensor, exact: torch.Tensor) -> float:
    return float((rough.double().cpu() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def _operators(workload: Workload, vocabulary: int) -> list[tuple[str, Operator, list[tuple[int, ...]]]]:
    """Name, function and input shapes of what the workload is made of."""
    if workload.family == "resnet":
        width = (workload.model.widths or [64])[-1]
        convolution: Operator = lambda x, w: functional.conv2d(x, w, padding=1)  # noqa: E731
        return [
            ("conv2d", convolution, [(4, width, 8, 8), (width, width, 3, 3)]),
            ("linear", functional.linear, [(16, width), (10, width)]),
        ]
    model = workload.model
    rows, h, f = min(MOST_ROWS, model.seq_len), model.hidden, model.ffn_size
    words = min(MOST_VOCABULARY, vocabulary)
    causal = workload.family != "bert"
    targets = torch.arange(rows) % words
    attention: Operator = lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=causal)  # noqa: E731
    loss: Operator = lambda x: functional.cross_entropy(x, targets.to(x.device)).reshape(1)  # noqa: E731
    heads = (1, model.heads, rows, h // model.heads)
    common: list[tuple[str, Operator, list[tuple[int, ...]]]] = [
        ("linear", functional.linear, [(rows, h), (f, h)]),
        ("attention", attention, [heads, heads, heads]),
        ("cross_entropy", loss, [(rows, words)]),
    ]
    if workload.family in ("gpt", "bert"):
        norm: Operator = lambda x, w, b: functional.layer_norm(x, (h,), w, b)  # noqa: E731
        return [*common, ("layer_norm", norm, [(rows, h), (h,), (h,)]), ("gelu", functional.gelu, [(rows, f)])]
    rms: Operator = lambda x, w: functional.rms_norm(x, (h,), w, 1e-6)  # noqa: E731
    swiglu: Operator = lambda gate, up: functional.silu(gate) * up  # noqa: E731
    return [*common, ("rms_norm", rms, [(rows, h), (h,)]), ("swiglu", swiglu, [(rows, f), (rows, f)])]
