"""OpenVINO on the CPU (or the device named by --device).

A torch model goes through torch.export, an ONNX file through OpenVINO's own reader. The precision that arithmetic
runs at is stated as INFERENCE_PRECISION_HINT: left alone, OpenVINO takes bf16 for an fp32 model where the CPU has
it. int8 comes from NNCF with a calibration set. Coverage: `query_model`, and the kernels of the compiled graph.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from general_perf.backends.contract import Arrays, BackendInfo, Compiled, CompileOptions, Coverage, LoadOptions, SourceModel
from general_perf.failures import StageError
from general_perf.measure.flops import with_model_flops

if TYPE_CHECKING:
    import numpy as np

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
NEEDED = {"bf16": "BF16", "fp16": "FP16"}
NOT_COUNTED = ("Parameter", "Result", "Constant")
ATTENTION = "ScaledDotProductAttention"
PRODUCTS = (ATTENTION, "MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
PRODUCT_LAYERS = ("FullyConnected", "MatMul", "Convolution", "Deconvolution", "ScaledDotProductAttention", "MHA", "RNNSeq")
RUN_AT = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "u8": "int8", "i8": "int8"}
WITHOUT_FORMULA = ("LSTMSequence", "LSTMCell", "GRUSequence", "RNNSequence", "Loop", "TensorIterator", "If")


class OpenVino:
    """Runs an OpenVINO model."""

    def describe(self) -> BackendInfo:
        import openvino

        return BackendInfo(
            name="openvino",
            about="OpenVINO",
            versions={"openvino": openvino.__version__.split("-")[0]},
            distributions=("openvino", "nncf"),
            devices=("cpu",),
            precisions=("fp32", "bf16", "fp16", "int8"),
            formats=("torch", "torchscript", "onnx"),
        )

    def compile(self, model: SourceModel, options: CompileOptions) -> Compiled:
        import openvino

        core = openvino.Core()
        device = _device(core, options)
        converted = _converted(model, options)
        tool, calibration = "INFERENCE_PRECISION_HINT", None
        if options.precision == "int8" and model.held != "int8":
            converted, tool = _quantised(converted, model, options), "nncf.quantize"
            calibration = options.calibration_source
        artefact = options.work / "model.xml"
        openvino.save_model(converted, str(artefact), compress_to_fp16=options.precision == "fp16")
        config = {"INFERENCE_PRECISION_HINT": HINTS[options.precision], "PERFORMANCE_HINT": options.extra.get("hint", "LATENCY")}
        compiled = Compiled(
            payload=(artefact, model, device, config, options.precision),
            artefact=artefact,
            optimisations=("OpenVINO's common and plugin transformations",),
            options=config,
            precision_tool=tool,
            calibration=calibration,
        )
        _compile(core, compiled, options.threads)
        return compiled

    def load(self, compiled: Compiled, options: LoadOptions) -> OpenVinoSession:
        import openvino

        _, model, _, _, _ = compiled.payload
        return OpenVinoSession(_compile(openvino.Core(), compiled, options.threads), model.card.outputs, model.input_names)

    def weights(self, compiled: Compiled) -> Iterator[np.ndarray[Any, Any]]:
        """See the contract: the constants of the file to deploy."""
        import openvino

        for node in openvino.Core().read_model(str(compiled.payload[0])).get_ops():
            if node.get_type_name() == "Constant":
                yield node.get_data()

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        import openvino

        artefact, model, device, _, _ = compiled.payload
        core = openvino.Core()
        graph = core.read_model(str(artefact))
        supported = set(core.query_model(graph, device))
        graph.reshape({place: list(inputs[name].shape) for place, name in enumerate(model.input_names)})
        executed = _compile(core, compiled, 1).get_runtime_model()
        return with_model_flops(coverage_of(graph, supported, device, executed), model, inputs)


class OpenVinoSession:
    """One compiled model with one infer request."""

    def __init__(self, compiled: Any, outputs: list[str], inputs: list[str]) -> None:
        self._request, self._inputs, self._outputs = compiled.create_infer_request(), inputs, outputs

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        """See the contract. Inputs are shared with OpenVINO, not copied."""
        answers = self._request.infer([inputs[name] for name in self._inputs], share_inputs=True)
        return {name: answers[place] for place, name in enumerate(self._outputs)}

    def device_memory_bytes(self) -> int | None:
        return None


def coverage_of(graph: Any, supported: set[str], device: str, executed: Any) -> Coverage:
    """Coverage from a graph of static shapes, the names that `query_model` gave, and the graph that runs."""
    elsewhere: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    nodes, flops, taken_flops = 0, 0, 0
    for node in graph.get_ops():
        kind = node.get_type_name()
        if kind in NOT_COUNTED:
            continue
        nodes += 1
        count = _flops(node)
        if count is None:
            unknown[kind] += 1
        flops += count or 0
        if node.get_friendly_name() in supported:
            taken_flops += count or 0
        else:
            elsewhere[kind] += 1
    kernels, precisions, products = _kernels(executed)
    taken = nodes - sum(elsewhere.values())
    return Coverage(
        method=f"operators that query_model gives to {device}; kernels as in the compiled graph",
        nodes=nodes,
        taken_nodes=taken,
        graph_share=taken / nodes if nodes else None,
        flops=flops,
        flops_share=taken_flops / flops if flops else None,
        fallback_operators=dict(sorted(elsewhere.items())),
        details={
            "reference_kernels": {kind: count for kind, count in sorted(kernels.items()) if count},
            "kernels_by_precision": dict(precisions),
            "products_by_precision": dict(products),
            "operators_without_flops_formula": dict(sorted(unknown.items())),
        },
    )


def _kernels(executed: Any) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Layers of the compiled graph that run by OpenVINO's slow reference code, how many layers run at what precision, and how many
    of those that multiply."""
    reference: Counter[str] = Counter()
    precisions: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for node in executed.get_ops():
        facts = {
            key: str(value.astype(str))
            for key, value in node.get_rt_info().items()
            if key in ("layerType", "primitiveType", "runtimePrecision")
        }
        kind = facts.get("layerType", "")
        if kind in ("", "Input", "Output", "Const"):
            continue
        precision = facts.get("runtimePrecision", "")
        precisions[precision] += 1
        if kind in PRODUCT_LAYERS:
            products[RUN_AT.get(precision, precision)] += 1
        if facts.get("primitiveType", "").startswith("ref"):
            reference[kind] += 1
    return reference, precisions, products


def _flops(node: Any) -> int | None:
    """2 per multiply-add; 0 for what doesn't multiply, None where it does and we can't tell."""
    kind = node.get_type_name()
    if kind in WITHOUT_FORMULA:
        return None
    if kind not in PRODUCTS:
        return 0
    if any(each.get_partial_shape().is_dynamic for each in (*node.inputs(), *node.outputs())):
        return None
    output, first, second = list(node.output(0).get_shape()), list(node.input(0).get_shape()), list(node.input(1).get_shape())
    if kind == ATTENTION:  # scores, then their product with the values
        return int(2 * math.prod(first[:-1]) * second[-2] * (first[-1] + list(node.input(2).get_shape())[-1]))
    if kind == "MatMul":
        depth = first[-2] if node.get_attributes().get("transpose_a") and len(first) > 1 else first[-1]
        return int(2 * math.prod(output) * depth)
    if kind == "Convolution":
        return int(2 * math.prod(output) * math.prod(second[1:]))
    if kind == "GroupConvolution":
        return int(2 * math.prod(output) * math.prod(second[2:]))
    return int(2 * math.prod(first) * math.prod(second[1:] if kind == "ConvolutionBackpropData" else second[2:]))


def _device(core: Any, options: CompileOptions) -> str:
    asked = "CPU" if options.device == "cpu" else options.device.upper()
    if asked not in core.available_devices:
        raise StageError(
            "missing_device", f"OpenVINO has no device {asked} here, only {', '.join(core.available_devices)}", "use --device cpu"
        )
    needed = NEEDED.get(options.precision)
    offered = core.get_property(asked, "OPTIMIZATION_CAPABILITIES")
    if needed and needed not in offered:
        raise StageError("unsupported_precision", f"this {asked} computes in {', '.join(offered)}, not in {needed}", "use fp32 or int8")
    return str(asked)


def _converted(model: SourceModel, options: CompileOptions) -> Any:
    import openvino

    from general_perf.backends.export import example_for, exported, quiet

    if model.onnx_path is not None:
        _require_known_opset(model.onnx_path)
        with quiet():
            return openvino.convert_model(str(model.onnx_path))
    if model.format == "torchscript":
        import torch

        example = tuple(torch.from_numpy(options.example[name]) for name in model.input_names)
        with quiet():
            return openvino.convert_model(model.module.script, example_input=example)
    program = exported(model.module, model, example_for(model, options), options.extra)
    with quiet():
        return openvino.convert_model(program)


def _require_known_opset(path: Path) -> None:
    """Raise StageError for an opset that isn't published: OpenVINO reads one that it doesn't know by the rules of an older
    one, and says nothing."""
    import onnx

    wanted = onnx.load(str(path), load_external_data=False).opset_import
    asked = max((each.version for each in wanted if each.domain in ("", "ai.onnx")), default=1)
    newest = onnx.defs.onnx_opset_version()
    if asked > newest:
        fix = "export with an older opset, or update onnx and the backend"
        raise StageError("unsupported_opset", f"{path.name} wants opset {asked}, the newest that is known here is {newest}", fix)


def _quantised(converted: Any, model: SourceModel, options: CompileOptions) -> Any:
    import nncf

    from general_perf.backends.export import quiet

    batches = [[each[name] for name in model.input_names] for each in options.calibration]
    if not batches:
        raise StageError("missing_dataset", "int8 needs a calibration set and there is none", "raise --calibration-samples")
    transformer = nncf.ModelType.TRANSFORMER if any(each.kind == "token_ids" for each in model.card.inputs) else None
    with quiet():
        return nncf.quantize(converted, nncf.Dataset(batches), subset_size=len(batches), model_type=transformer)


def _compile(core: Any, compiled: Compiled, threads: int) -> Any:
    artefact, _, device, config, _ = compiled.payload
    return core.compile_model(str(artefact), device, {**config, "INFERENCE_NUM_THREADS": threads})


def artefact_files(artefact: Path) -> list[Path]:
    """OpenVINO keeps weights beside the graph."""
    return [artefact, artefact.with_suffix(".bin")]
