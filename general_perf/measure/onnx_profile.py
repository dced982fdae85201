"""FLOPs and coverage from the kernel events of one profiled call of ONNX Runtime."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from general_perf.backends.contract import Arrays, Coverage
from general_perf.backends.weights import held_by

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


def flops_of_file(path: Path, inputs: Arrays, names: list[str]) -> tuple[int, dict[str, int]]:
    """FLOPs of one call of an ONNX file as it stands, and operators without a formula. Inputs are those of `names`, in order."""
    import tempfile

    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level, options.enable_profiling, options.profile_file_prefix = 3, True, f"{folder}/profile"
        options.add_session_config_entry("session.disable_prepacking", "1")  # a profile doesn't show packed weights
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, {each.name: inputs[name] for each, name in zip(session.get_inputs(), names, strict=True)})
        found = coverage_of(_kernels(session), "CPUExecutionProvider")
    return found.flops or 0, found.details["operators_without_flops_formula"]


def _kernels(session: Any) -> list[dict[str, Any]]:
    """Kernel events of a session's profile, which ends here."""
    trace = Path(session.end_profiling())
    events = [each for each in json.loads(trace.read_bytes()) if each.get("cat") == "Node" and "provider" in each.get("args", {})]
    trace.unlink()
    return events


def coverage_of(events: list[dict[str, Any]], provider: str) -> Coverage:
    """Coverage from the kernel events of one profiled call: who ran each node, and the FLOPs of those that multiply."""
    elsewhere: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    providers: Counter[str] = Counter()
    products: Counter[str] = Counter()
    flops = {True: 0, False: 0}
    for event in events:
        arguments = event["args"]
        operator, taken = arguments["op_name"], arguments["provider"] == provider
        providers[arguments["provider"]] += 1
        if not taken:
            elsewhere[operator] += 1
        count = _flops(operator, arguments)
        if count is None:
            unknown[operator] += 1
        flops[taken] += count or 0
        if count and (kinds := [next(iter(each), "") for each in arguments.get("input_type_shape", [])]):
            products[held_by({kinds[0]: 1})] += 1
    nodes, total = len(events), sum(flops.values())
    return Coverage(
        method=f"kernels of one profiled call by the provider that ran them, against {provider}",
        nodes=nodes,
        taken_nodes=nodes - sum(elsewhere.values()),
        graph_share=(nodes - sum(elsewhere.values())) / nodes if nodes else None,
        flops=total,
        flops_share=flops[True] / total if total else None,
        partitions=1 + sum(1 for one, two in pairwise(events) if one["args"]["provider"] != two["args"]["provider"]),
        fallback_operators=dict(sorted(elsewhere.items())),
        details={
            "nodes_by_provider": dict(providers),
            "products_by_precision": dict(products),
            "operators_without_flops_formula": dict(sorted(unknown.items())),
        },
    )


def _flops(operator: str, arguments: dict[str, Any]) -> int | None:
    """2 per multiply-add of a convolution or matrix product; 0 for others, None where it multiplies and we can't tell."""
    shapes: list[list[int]] = [next(iter(each.values()), []) for each in arguments.get("input_type_shape", [])]
    outputs: list[list[int]] = [next(iter(each.values()), []) for each in arguments.get("output_type_shape", [])]
    if operator in WITHOUT_FORMULA:
        return None
    if operator in WEIGHT_INPUT:
        place = WEIGHT_INPUT[operator]
        if place >= len(shapes) or not outputs:
            return None
        where = shapes[0] if operator == "ConvTranspose" else outputs[0]
        return 2 * math.prod(where) * math.prod(shapes[place][1:])
    if operator in RECURRENT:  # every step of every sequence meets both matrices, of each direction
        weights = [each for each in shapes[1:3] if len(each) == 3]
        return 2 * math.prod(shapes[0][:-1]) * sum(map(math.prod, weights)) if len(weights) == 2 else None  # None: packed beforehand
    if operator in MATMULS:
        return 2 * math.prod(outputs[0]) * shapes[0][-1] if shapes and outputs and shapes[0] else None
    return 0
