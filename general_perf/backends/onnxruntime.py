"""ONNX Runtime, on the CPU or through the CUDA and TensorRT providers.

A torch model goes through torch's exporter; an ONNX file is taken as it is. fp16 comes from ONNX Runtime's own
converter, int8 from `quantize_static` (QDQ, per channel) with a calibration set, bf16 from exporting the module in
bf16. Coverage comes from ONNX Runtime's profile: the provider of each kernel that ran.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bytemlperf.extras import require
from general_perf.backends.contract import Array, Arrays, BackendInfo, Compiled, CompileOptions, Coverage, LoadOptions, SourceModel, quiet
from general_perf.backends.onnx_files import OrtSession, copy_onnx, graph_of, inputs_of, opset_of, weights_of
from general_perf.backends.registry import OPTIONS
from general_perf.failures import StageError
from general_perf.measure.flops import with_model_flops
from general_perf.measure.onnx_profile import coverage_of, kernels_of

require("backend onnxruntime", "general", "onnx", "onnxruntime")
import onnx  # noqa: E402
import onnxruntime  # noqa: E402

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LEVELS = OPTIONS["onnxruntime"]["optimization"]
PER_CHANNEL_OPSET = 13
"""The first whose DequantizeLinear has scales for each channel."""


class Payload(NamedTuple):
    """What a session is made of."""

    artefact: Path
    model: SourceModel
    provider: str
    level: str


class OnnxRuntime:
    """Runs an ONNX graph."""

    def describe(self) -> BackendInfo:
        return BackendInfo(
            name="onnxruntime",
            about="ONNX Runtime; --device cuda, --backend-option provider=TensorrtExecutionProvider",
            versions={"onnxruntime": onnxruntime.__version__},
            distributions=("onnxruntime",),
            devices=("cpu", "cuda"),
            precisions=("fp32", "bf16", "fp16", "int8"),
            formats=("torch", "onnx"),
        )

    def compile(self, model: SourceModel, options: CompileOptions) -> Compiled:
        provider = _provider(options)
        plain = options.work / "exported.onnx"
        if model.onnx_path is not None:
            copy_onnx(model.onnx_path, plain)
        elif model.format == "torchscript":
            raise StageError("unsupported_format", "torch exports no TorchScript file to ONNX", "give the ONNX file with --weights")
        else:
            from general_perf.backends.export import to_onnx

            to_onnx(model, options, plain)
        artefact, tool, calibration = _at_precision(model, options, plain)
        level = options.extra.get("optimization", "all")
        if level not in LEVELS:
            raise StageError("compile_error", f"optimization '{level}' is unknown", f"give one of {', '.join(LEVELS)}")
        payload = Payload(artefact, model, provider, level)
        _session(payload, options.threads)  # the provider's own compilation belongs to the duration
        opset = str(opset_of(graph_of(artefact)) or "")
        return Compiled(
            payload=payload,
            artefact=artefact,
            optimisations=(f"graph optimisation level {level}",),
            options={"provider": provider, "opset": opset, "dynamic": options.extra.get("dynamic", "true")},
            precision_tool=tool,
            calibration=calibration,
        )

    def load(self, compiled: Compiled, options: LoadOptions) -> OrtSession:
        payload: Payload = compiled.payload
        session = _session(payload, options.threads)
        if (provider := session.get_providers()[0]) != payload.provider:
            raise StageError("missing_device", f"{payload.provider} did not start, ONNX Runtime took {provider}", "check the driver")
        return OrtSession(session, payload.model)

    def weights(self, compiled: Compiled) -> Iterator[Array]:
        """See the contract: of the file to deploy."""
        return weights_of(compiled.payload.artefact)

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        payload: Payload = compiled.payload
        session = _session(payload, 1, profile=payload.artefact.parent / "profile")
        OrtSession(session, payload.model).predict(inputs)
        return with_model_flops(coverage_of(kernels_of(session), payload.provider), payload.model, inputs)


def _provider(options: CompileOptions) -> str:
    name = options.extra.get("provider") or PROVIDERS.get(options.device.partition(":")[0], "")
    available = onnxruntime.get_available_providers()
    if name not in available:
        package = "onnxruntime-gpu" if options.device.startswith("cuda") else "a build of onnxruntime that has it"
        cause = f"this onnxruntime has no {name or options.device}, only {', '.join(available)}"
        raise StageError("missing_device", cause, f"install {package}")
    return name


def _session(payload: Payload, threads: int, profile: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    name = "ORT_DISABLE_ALL" if payload.level == "disable" else f"ORT_ENABLE_{payload.level.upper()}"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, name)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    others = [] if payload.provider == "CPUExecutionProvider" else ["CPUExecutionProvider"]
    own = {"use_tf32": "0"} if payload.provider == "CUDAExecutionProvider" else {}  # on by default: fp32 in name
    return onnxruntime.InferenceSession(str(payload.artefact), options, providers=[(payload.provider, own), *others])


def _at_precision(model: SourceModel, options: CompileOptions, plain: Path) -> tuple[Path, str, str | None]:
    """The artefact at the precision, by what tool, calibrated on what."""
    if options.precision in (model.held, "fp32"):
        return plain, "as the model is", None
    if options.precision == "bf16":
        if model.onnx_path is not None:
            raise StageError("unsupported_precision", "an ONNX file is not turned into bf16 here", "use fp32, fp16 or int8")
        return plain, "module.to(torch.bfloat16) before the export", None
    if options.precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        halved = options.work / "fp16.onnx"
        onnx.save(convert_float_to_float16(onnx.load(str(plain)), keep_io_types=True), str(halved))
        return halved, "onnxruntime.transformers.float16", None
    return _quantised(options, plain), "onnxruntime.quantization.quantize_static, QDQ, per channel", options.calibration_source


def _quantised(options: CompileOptions, plain: Path) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    graph = graph_of(plain)
    names = [value.name for value in inputs_of(graph)]
    batches = iter([dict(zip(names, batch.values(), strict=True)) for batch in options.calibration_batches()])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Arrays | None:
            return next(batches, None)

    prepared, quantised = options.work / "prepared.onnx", options.work / "int8.onnx"
    with quiet():
        if (opset_of(graph) or PER_CHANNEL_OPSET) < PER_CHANNEL_OPSET:
            onnx.save(onnx.version_converter.convert_version(onnx.load(str(plain)), PER_CHANNEL_OPSET), str(plain))
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        _flatten_biases(prepared)
        quantize_static(
            str(prepared),
            str(quantised),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )
    return quantised


def _flatten_biases(path: Path) -> None:
    """Write Gemm's biases of shape [1, n] as [n], which is the same to Gemm: `quantize_static` trips over the former."""
    model = onnx.load(str(path))
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    wide = [tensor for tensor in model.graph.initializer if tensor.name in biases and len(tensor.dims) == 2 and tensor.dims[0] == 1]
    for tensor in wide:
        tensor.dims[:] = [tensor.dims[1]]
    if wide:
        onnx.save(model, str(path))
