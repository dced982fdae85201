"""What both torch backends share: precision, devices, sessions.

bf16 and fp16 cast weights and floating inputs; int8 is quantised on the calibration set (torch_int8); outputs come
back as fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bytemlperf.extras import require
from general_perf.backends.contract import Array, Arrays, BackendInfo, Compiled, CompileOptions, LoadOptions, Outputs, SourceModel
from general_perf.backends.tensors import floats_as, tensors_of, weights_of_module
from general_perf.backends.torch_int8 import AtPrecision, quantised
from general_perf.failures import StageError

require("a torch backend", "general", "torch")
import torch  # noqa: E402

FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchSession:
    """Runs a callable of tensors; floating inputs are cast to the precision's type."""

    def __init__(self, call: Callable[..., Any], model: SourceModel, device: str, precision: str) -> None:
        self._call, self._model, self._device = call, model, device
        self._dtype = FLOATS.get(precision)
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()

    def tensors(self, inputs: Arrays) -> tuple[torch.Tensor, ...]:
        """The inputs as tensors on the device, in the model's order."""
        tensors = tensors_of(inputs, self._model)
        if self._dtype is None and self._device == "cpu":
            return tensors
        return tuple(tensor.to(self._device, self._dtype if tensor.is_floating_point() else None) for tensor in tensors)

    def predict(self, inputs: Arrays) -> Outputs:
        """See the contract. Copying the outputs to the host waits for the device."""
        with torch.inference_mode():
            outputs = floats_as(torch.float32, self._call(*self.tensors(inputs)))
            return {name: tensor.cpu().numpy() for name, tensor in zip(self._model.card.outputs, outputs, strict=True)}

    def device_memory_bytes(self) -> int | None:
        """Peak of what torch's allocator held on the GPU."""
        return int(torch.cuda.max_memory_allocated()) if self._device.startswith("cuda") else None


class Payload(NamedTuple):
    """`call` answers; `source` is the module at its precision, which may be the same."""

    call: Callable[..., Any]
    source: AtPrecision
    model: SourceModel
    options: CompileOptions

    def session(self, device: str) -> TorchSession:
        """Of what was compiled."""
        return TorchSession(self.call, self.model, device, self.options.precision)

    def tensors(self, inputs: Arrays) -> tuple[torch.Tensor, ...]:
        """Inputs of the module."""
        return self.session(self.options.device).tensors(inputs)


class TorchBackend:
    """What doesn't depend on how the module is compiled."""

    name = about = ""

    def describe(self) -> BackendInfo:
        return BackendInfo(
            name=self.name,
            about=self.about,
            versions={"torch": torch.__version__},
            distributions=("torch",),
            devices=("cpu", "cuda"),
            precisions=("fp32", "bf16", "fp16", "int8"),
            formats=("torch", "torchscript"),
        )

    def load(self, compiled: Compiled, options: LoadOptions) -> TorchSession:
        torch.set_num_threads(options.threads)
        payload: Payload = compiled.payload
        return payload.session(options.device)

    def weights(self, compiled: Compiled) -> Iterator[Array]:
        """See the contract: of the module that was compiled."""
        return weights_of_module(compiled.payload.source.module)


def at_precision(model: SourceModel, options: CompileOptions) -> AtPrecision:
    """The module at its precision on the device, and by what tool. The source's own module stays as it was. Raises StageError for a
    model that torch can't run, for a device that is not there, and for a precision that can't be had."""
    if model.module is None:
        raise StageError("unsupported_format", f"torch runs no {model.format.upper()} files", "use --backend onnxruntime or openvino")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise StageError("missing_device", f"device {options.device}: torch sees no CUDA device", "use --device cpu")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # torch's own default for convolutions: fp32 in name
    script = model.format == "torchscript"
    module = model.module if script else copy.deepcopy(model.module)
    if options.precision == "fp32" or (script and options.precision == model.held):
        return AtPrecision(module.to(options.device), "as the model is")
    if script:
        raise StageError("unsupported_precision", "a TorchScript file keeps its own precision", "use --precision fp32")
    if options.precision == "int8":
        return quantised(module, model, options)
    dtype = FLOATS[options.precision]
    return AtPrecision(module.to(options.device, dtype), f"module.to({dtype})")
