"""FLOPs and coverage from the kernel events of one profiled call of ONNX Runtime."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from general_perf.backends.contract import Arrays, Coverage, SourceModel, Tally, held_by
from general_perf.backends.onnx_files import OrtSession, cpu_session

if TYPE_CHECKING:
    import onnxruntime
else:
    from bytemlperf.lazy import onnxruntime

WEIGHT_INPUT = {"Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
MATMULS = (
    *("MatMul", "FusedMatMul", "TransposeMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat"),
    *("DynamicQuantizeMatMul", "QLinearMatMul", "QGemm"),
)


RECURRENT = ("LSTM", "GRU", "RNN")
WITHOUT_FORMULA = (
    *("DynamicQuantizeLSTM", "Einsum", "STFT", "DFT"),
    *("Attention", "MultiHeadAttention", "GroupQueryAttention"),
)


def flops_of_file(model: SourceModel, inputs: Arrays) -> tuple[int, dict[str, int]]:
    """FLOPs of one call of a model's ONNX file as it stands, and operators without a formula."""
    assert model.onnx_path is not None
    with tempfile.TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.enable_profiling, settings.profile_file_prefix = True, f"{folder}/profile"
        settings.add_session_config_entry("session.disable_prepacking", "1")  # a profile doesn't show packed weights
        session = cpu_session(model.onnx_path, settings)
        OrtSession(session, model).predict(inputs)
        coverage = coverage_of(kernels_of(session), "CPUExecutionProvider")
    return coverage.flops or 0, coverage.details["operators_without_flops_formula"]


def kernels_of(session: onnxruntime.InferenceSession) -> list[dict[str, Any]]:
    """Kernel events of a session's profile, which ends here."""
    trace = Path(session.end_profiling())
    events = [event for event in json.loads(trace.read_bytes()) if event.get("cat") == "Node" and "provider" in event.get("args", {})]
    trace.unlink()
    return events


def coverage_of(events: list[dict[str, Any]], provider: str) -> Coverage:
    """Coverage from the kernel events of one profiled call: who ran each node, and the FLOPs of those that multiply."""
    tally = Tally()
    providers: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for event in events:
        arguments = event["args"]
        flops = _flops(arguments["op_name"], arguments)
        tally.add(arguments["op_name"], flops, taken=arguments["provider"] == provider)
        providers[arguments["provider"]] += 1
        if flops and (kinds := [next(iter(shape), "") for shape in arguments.get("input_type_shape", [])]):
            products[held_by({kinds[0]: 1})] += 1
    return tally.coverage(
        f"kernels of one profiled call by the provider that ran them, against {provider}",
        {"nodes_by_provider": dict(providers), "products_by_precision": dict(products)},
        partitions=1 + sum(one["args"]["provider"] != two["args"]["provider"] for one, two in pairwise(events)),
    )


def _flops(operator: str, arguments: dict[str, Any]) -> int | None:
    """2 per multiply-add of a convolution or matrix product; 0 for others, None where it multiplies and we can't tell."""
    shapes: list[list[int]] = [next(iter(shape.values()), []) for shape in arguments.get("input_type_shape", [])]
    outputs: list[list[int]] = [next(iter(shape.values()), []) for shape in arguments.get("output_type_shape", [])]
    if operator in WITHOUT_FORMULA:
        return None
    if operator in WEIGHT_INPUT:
        weight_input = WEIGHT_INPUT[operator]
        if weight_input >= len(shapes) or not outputs:
            return None
        where = shapes[0] if operator == "ConvTranspose" else outputs[0]
        return 2 * math.prod(where) * math.prod(shapes[weight_input][1:])
    if operator in RECURRENT:  # every step of every sequence meets both matrices, of each direction
        weights = [shape for shape in shapes[1:3] if len(shape) == 3]
        return 2 * math.prod(shapes[0][:-1]) * sum(map(math.prod, weights)) if len(weights) == 2 else None  # None: packed beforehand
    if operator in MATMULS:
        return 2 * math.prod(outputs[0]) * shapes[0][-1] if shapes and outputs and shapes[0] else None
    return 0
