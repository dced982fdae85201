"""ONNX Runtime, on the CPU or through the CUDA and TensorRT providers.

A torch model goes through torch's exporter; an ONNX file is taken as it is. fp16 comes from ONNX Runtime's own
converter, int8 from `quantize_static` (QDQ, per channel) with a calibration set, bf16 from exporting the module in
bf16. Coverage comes from ONNX Runtime's profile: the provider of each kernel that ran.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from general_perf.backends.contract import Arrays, BackendInfo, Compiled, CompileOptions, Coverage, LoadOptions, SourceModel
from general_perf.backends.onnx_files import copy_onnx
from general_perf.backends.weights import of_onnx
from general_perf.failures import StageError
from general_perf.measure.flops import with_model_flops
from general_perf.measure.onnx_profile import _kernels, coverage_of

if TYPE_CHECKING:
    import numpy as np

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LEVELS = {"disable": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
PER_CHANNEL_OPSET = 13
"""The first whose DequantizeLinear has scales for each channel."""


class OnnxRuntime:
    """Runs an ONNX graph."""

    def describe(self) -> BackendInfo:
        import onnxruntime

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
        import onnx

        provider = _provider(options)
        plain = options.work / "exported.onnx"
        if model.onnx_path is not None:
            copy_onnx(model.onnx_path, plain)
        elif model.format == "torchscript":
            raise StageError("unsupported_format", "torch exports no TorchScript file to ONNX", "give the ONNX file with --weights")
        else:
            _export(model, options, plain)
        artefact, tool, calibration = _at_precision(model, options, plain)
        level = options.extra.get("optimization", "all")
        if level not in LEVELS:
            raise StageError("compile_error", f"optimization '{level}' is unknown", f"give one of {', '.join(LEVELS)}")
        opsets = {each.domain or "ai.onnx": each.version for each in onnx.load(str(artefact), load_external_data=False).opset_import}
        compiled = Compiled(
            payload=(artefact, model, provider, level),
            artefact=artefact,
            optimisations=(f"graph optimisation level {level}",),
            options={"provider": provider, "opset": str(opsets.get("ai.onnx", "")), "dynamic": options.extra.get("dynamic", "true")},
            precision_tool=tool,
            calibration=calibration,
        )
        _session(compiled, options.threads)  # the provider's own compilation belongs to the duration
        return compiled

    def load(self, compiled: Compiled, options: LoadOptions) -> OrtSession:
        _, model, provider, _ = compiled.payload
        session = _session(compiled, options.threads)
        if session.get_providers()[0] != provider:
            raise StageError(
                "missing_device", f"{provider} did not start, ONNX Runtime took {session.get_providers()[0]}", "check the driver"
            )
        return OrtSession(session, model.card.outputs, model.input_names)

    def weights(self, compiled: Compiled) -> Iterator[np.ndarray[Any, Any]]:
        """See the contract: of the file to deploy."""
        return of_onnx(compiled.payload[0])

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        artefact, model, provider, _ = compiled.payload
        session = _session(compiled, 1, profile=artefact.parent / "profile")
        OrtSession(session, model.card.outputs, model.input_names).predict(inputs)
        return with_model_flops(coverage_of(_kernels(session), provider), model, inputs)


class OrtSession:
    """One inference session."""

    def __init__(self, session: Any, outputs: list[str], inputs: list[str]) -> None:
        self._session, self._outputs = session, outputs
        self._names = dict(zip([each.name for each in session.get_inputs()], inputs, strict=True))
        self._wanted = [each.name for each in session.get_outputs()][: len(outputs)]

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        """See the contract."""
        answers = self._session.run(self._wanted, {theirs: inputs[ours] for theirs, ours in self._names.items()})
        return dict(zip(self._outputs, answers, strict=True))

    def device_memory_bytes(self) -> int | None:
        return None


def _provider(options: CompileOptions) -> str:
    import onnxruntime

    asked = options.extra.get("provider") or PROVIDERS.get(options.device.partition(":")[0], "")
    available = onnxruntime.get_available_providers()
    if asked not in available:
        package = "onnxruntime-gpu" if options.device.startswith("cuda") else "a build of onnxruntime that has it"
        raise StageError(
            "missing_device", f"this onnxruntime has no {asked or options.device}, only {', '.join(available)}", f"install {package}"
        )
    return str(asked)


def _session(compiled: Compiled, threads: int, profile: Path | None = None) -> Any:
    import onnxruntime

    artefact, _, provider, level = compiled.payload
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    others = [] if provider == "CPUExecutionProvider" else ["CPUExecutionProvider"]
    own = {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}  # on by default: fp32 in name
    return onnxruntime.InferenceSession(str(artefact), options, providers=[(provider, own), *others])


def _export(model: SourceModel, options: CompileOptions, path: Path) -> None:
    import copy

    import torch

    from general_perf.backends.export import to_onnx

    module = model.module
    if options.precision == "bf16":
        module = _cast_inside(copy.deepcopy(module), torch.bfloat16)
    to_onnx(module, model, options, path)


def _cast_inside(module: Any, dtype: Any) -> Any:
    """fp32 at the edges, `dtype` inside: numpy has no bf16."""
    import torch

    class Cast(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module.to(dtype)

        def forward(self, *tensors: Any) -> Any:
            given = [each.to(dtype) if each.is_floating_point() else each for each in tensors]
            return tuple(each.float() if each.is_floating_point() else each for each in self.inner(*given))

        def parameters(self, recurse: bool = True) -> Iterator[Any]:  # noqa: ARG002
            return iter(())  # the example stays fp32: the cast is inside the graph

    return Cast().eval()


def _at_precision(model: SourceModel, options: CompileOptions, plain: Path) -> tuple[Path, str, str | None]:
    """The artefact at the precision, by what tool, calibrated on what."""
    import onnx

    if model.held == options.precision:
        return plain, "as the model is", None
    if options.precision == "bf16":
        if model.onnx_path is not None:
            raise StageError("unsupported_precision", "an ONNX file is not turned into bf16 here", "use fp32, fp16 or int8")
        return plain, "module.to(torch.bfloat16) before the export", None
    if options.precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        made = convert_float_to_float16(onnx.load(str(plain)), keep_io_types=True)
        onnx.save(made, str(options.work / "fp16.onnx"))
        return options.work / "fp16.onnx", "onnxruntime.transformers.float16", None
    if options.precision == "int8":
        return _quantised(options, plain), "onnxruntime.quantization.quantize_static, QDQ, per channel", options.calibration_source
    return plain, "as the model is", None


def _at_least_opset(path: Path, wanted: int) -> None:
    """Write the file anew at the opset where its own is older, by ONNX's converter."""
    import onnx
    from onnx import version_converter

    model = onnx.load(str(path))
    if next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), wanted) < wanted:
        onnx.save(version_converter.convert_version(model, wanted), str(path))


def _flat_biases(path: Path) -> None:
    """Write Gemm's biases of shape [1, n] as [n], which is the same to Gemm: `quantize_static` trips over the former."""
    import onnx

    model = onnx.load(str(path))
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    wide = [each for each in model.graph.initializer if each.name in biases and len(each.dims) == 2 and each.dims[0] == 1]
    for tensor in wide:
        tensor.dims[:] = [tensor.dims[1]]
    if wide:
        onnx.save(model, str(path))


def _quantised(options: CompileOptions, plain: Path) -> Path:
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from general_perf.backends.export import quiet

    names = [each.name for each in onnxruntime.InferenceSession(str(plain), providers=["CPUExecutionProvider"]).get_inputs()]
    batches = iter([dict(zip(names, each.values(), strict=True)) for each in options.calibration])
    if not options.calibration:
        raise StageError("missing_dataset", "int8 needs a calibration set and there is none", "raise --calibration-samples")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(batches, None)

    prepared, quantised = options.work / "prepared.onnx", options.work / "int8.onnx"
    with quiet():
        _at_least_opset(plain, PER_CHANNEL_OPSET)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        _flat_biases(prepared)
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
