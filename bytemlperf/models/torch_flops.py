"""FLOPs of a call of torch, counted where its operators pass the dispatcher: 2 for a multiply-add of a matrix product,
convolution, attention or recurrent layer, 0 for the rest, by torch's own formulas and those that it lacks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

Shape = tuple[int, ...]
WITHOUT_FORMULA = (
    *("aten::_native_multi_head_attention", "aten::_transformer_encoder_layer_fwd", "aten::_cudnn_rnn", "aten::miopen_rnn"),
    *("aten::_fft_r2c", "aten::_fft_c2c", "aten::_fft_c2r", "aten::_cdist_forward", "aten::_weight_int8pack_mm", "aten::_sparse_mm"),
    *("quantized::", "onednn::", "mkldnn::", "torchao::", "fbgemm::"),
)
"""Beginnings of operators that multiply and have no formula here: they are named, not counted."""


class Counted(NamedTuple):
    """Operators of a call by name, its FLOPs, and those of its operators that multiply and could not be counted."""

    names: Counter[str]
    flops: int
    uncounted: dict[str, int]

    @property
    def operators(self) -> int:
        return sum(self.names.values())


def count_call(call: Callable[..., Any], tensors: tuple[Any, ...]) -> Counted:
    """Run `call` once and count. Views and other operators without arithmetic count as operators too."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    names: Counter[str] = Counter()

    class CountMode(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names[func._schema.name] += 1
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_formulas()) as flops, CountMode():
        call(*tensors)
    uncounted = {name: count for name, count in sorted(names.items()) if name.startswith(WITHOUT_FORMULA)}
    return Counted(names, int(flops.get_total_flops()), uncounted)


def _formulas() -> dict[Any, Callable[..., int]]:
    """Of operators that torch's counter doesn't know: attention as CPUs fuse it, products with vectors, recurrent layers."""
    import torch
    from torch.utils.flop_counter import sdpa_flop_count

    aten = torch.ops.aten

    def attention(query: Shape, key: Shape, value: Shape, *_rest: object, **_more: object) -> int:
        return int(sdpa_flop_count(query, key, value))

    return {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_fused_attention_overrideable: attention,
        aten.mv: lambda matrix, _vector, **_: 2 * math.prod(matrix),
        aten.addmv: lambda _bias, matrix, _vector, **_: 2 * math.prod(matrix),
        aten.dot: lambda one, _other, **_: 2 * math.prod(one),
        aten._int_mm: lambda one, other, **_: 2 * math.prod(one) * other[-1],
        aten.mkldnn_rnn_layer: _recurrent,
    }


def _recurrent(sequence: Shape, of_input: Shape, of_state: Shape, *_rest: object, **_more: object) -> int:
    """One layer and direction: every step of every sequence meets both matrices."""
    return 2 * math.prod(sequence[:-1]) * (math.prod(of_input) + math.prod(of_state))
