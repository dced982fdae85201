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
from typing import NamedTuple

from bytemlperf.extras import require
from bytemlperf.lazy import onnx
from general_perf.backends.contract import (
    Array,
    Arrays,
    BackendInfo,
    Compiled,
    CompileOptions,
    Coverage,
    LoadOptions,
    Outputs,
    SourceModel,
    Tally,
    quiet,
)
from general_perf.backends.onnx_files import graph_of, opset_of
from general_perf.backends.tensors import tensors_of
from general_perf.failures import StageError
from general_perf.measure.flops import with_model_flops

require("backend openvino", "general", "openvino")
import openvino  # noqa: E402

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
NEEDED = {"bf16": "BF16", "fp16": "FP16"}
NOT_COUNTED = ("Parameter", "Result", "Constant")
ATTENTION = "ScaledDotProductAttention"
PRODUCTS = (ATTENTION, "MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
PRODUCT_LAYERS = ("FullyConnected", "MatMul", "Convolution", "Deconvolution", "ScaledDotProductAttention", "MHA", "RNNSeq")
RUN_AT = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "u8": "int8", "i8": "int8"}
WITHOUT_FORMULA = ("LSTMSequence", "LSTMCell", "GRUSequence", "RNNSequence", "Loop", "TensorIterator", "If")


class Payload(NamedTuple):
    """What a session is made of."""

    artefact: Path
    model: SourceModel
    device: str
    config: dict[str, str]

    def compiled(self, core: openvino.Core, threads: int) -> openvino.CompiledModel:
        """Ready to run."""
        return core.compile_model(str(self.artefact), self.device, {**self.config, "INFERENCE_NUM_THREADS": threads})


class OpenVino:
    """Runs an OpenVINO model."""

    def describe(self) -> BackendInfo:
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
        payload = Payload(artefact, model, device, config)
        payload.compiled(core, options.threads)
        return Compiled(
            payload=payload,
            artefact=artefact,
            optimisations=("OpenVINO's common and plugin transformations",),
            options=config,
            precision_tool=tool,
            calibration=calibration,
        )

    def load(self, compiled: Compiled, options: LoadOptions) -> OpenVinoSession:
        payload: Payload = compiled.payload
        return OpenVinoSession(payload.compiled(openvino.Core(), options.threads), payload.model)

    def weights(self, compiled: Compiled) -> Iterator[Array]:
        """See the contract: the constants of the file to deploy."""
        for node in openvino.Core().read_model(str(compiled.payload.artefact)).get_ops():
            if node.get_type_name() == "Constant":
                yield node.get_data()

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        payload: Payload = compiled.payload
        core = openvino.Core()
        graph = core.read_model(str(payload.artefact))
        supported = set(core.query_model(graph, payload.device))
        graph.reshape({index: list(inputs[name].shape) for index, name in enumerate(payload.model.input_names)})
        executed = payload.compiled(core, 1).get_runtime_model()
        return with_model_flops(coverage_of(graph, supported, payload.device, executed), payload.model, inputs)


class OpenVinoSession:
    """One compiled model with one infer request."""

    def __init__(self, compiled: openvino.CompiledModel, model: SourceModel) -> None:
        self._request, self._inputs, self._outputs = compiled.create_infer_request(), model.input_names, model.card.outputs

    def predict(self, inputs: Arrays) -> Outputs:
        """See the contract. Inputs are shared with OpenVINO, not copied."""
        outputs = self._request.infer([inputs[name] for name in self._inputs], share_inputs=True)
        return {name: outputs[index] for index, name in enumerate(self._outputs)}

    def device_memory_bytes(self) -> int | None:
        return None


def coverage_of(graph: openvino.Model, supported: set[str], device: str, executed: openvino.Model) -> Coverage:
    """Coverage from a graph of static shapes, the names that `query_model` gave, and the graph that runs."""
    tally = Tally()
    for node in graph.get_ops():
        kind = node.get_type_name()
        if kind not in NOT_COUNTED:
            tally.add(kind, _flops(node), taken=node.get_friendly_name() in supported)
    reference, precisions, products = _kernels(executed)
    return tally.coverage(
        f"operators that query_model gives to {device}; kernels as in the compiled graph",
        {
            "reference_kernels": dict(sorted(reference.items())),
            "kernels_by_precision": dict(precisions),
            "products_by_precision": dict(products),
        },
    )


def _kernels(executed: openvino.Model) -> tuple[Counter[str], Counter[str], Counter[str]]:
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


def _flops(node: openvino.Node) -> int | None:
    """2 per multiply-add; 0 for what doesn't multiply, None where it does and we can't tell."""
    kind = node.get_type_name()
    if kind in WITHOUT_FORMULA:
        return None
    if kind not in PRODUCTS:
        return 0
    if any(end.get_partial_shape().is_dynamic for end in (*node.inputs(), *node.outputs())):
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


def _device(core: openvino.Core, options: CompileOptions) -> str:
    device = "CPU" if options.device == "cpu" else options.device.upper()
    if device not in core.available_devices:
        cause = f"OpenVINO has no device {device} here, only {', '.join(core.available_devices)}"
        raise StageError("missing_device", cause, "use --device cpu")
    needed = NEEDED.get(options.precision)
    offered = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if needed and needed not in offered:
        raise StageError("unsupported_precision", f"this {device} computes in {', '.join(offered)}, not in {needed}", "use fp32 or int8")
    return device


def _converted(model: SourceModel, options: CompileOptions) -> openvino.Model:
    if model.onnx_path is not None:
        _require_known_opset(model.onnx_path)
        with quiet():
            return openvino.convert_model(str(model.onnx_path))
    from general_perf.backends.export import example_for, exported

    if model.format == "torchscript":
        with quiet():
            return openvino.convert_model(model.module.script, example_input=tensors_of(options.example, model))
    program = exported(model.module, model, example_for(model, options), options.extra)
    with quiet():
        return openvino.convert_model(program)


def _require_known_opset(path: Path) -> None:
    """Raise StageError for an opset that isn't published: OpenVINO reads one that it doesn't know by the rules of an older
    one, and says nothing."""
    opset, newest = opset_of(graph_of(path)) or 1, onnx.defs.onnx_opset_version()
    if opset > newest:
        fix = "export with an older opset, or update onnx and the backend"
        raise StageError("unsupported_opset", f"{path.name} wants opset {opset}, the newest that is known here is {newest}", fix)


def _quantised(converted: openvino.Model, model: SourceModel, options: CompileOptions) -> openvino.Model:
    import nncf

    batches = [[batch[name] for name in model.input_names] for batch in options.calibration_batches()]
    transformer = nncf.ModelType.TRANSFORMER if any(entry.kind == "token_ids" for entry in model.card.inputs) else None
    with quiet():
        return nncf.quantize(converted, nncf.Dataset(batches), subset_size=len(batches), model_type=transformer)
