"""What both torch backends share: precision, devices, arrays to tensors and back.

bf16 and fp16 cast weights and floating inputs; int8 is quantised on the calibration set (torch_int8); outputs come
back as fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from general_perf.backends.contract import Arrays, CompileOptions, LoadOptions, SourceModel
from general_perf.backends.torch_int8 import AtPrecision, quantised
from general_perf.backends.weights import plain_tensors
from general_perf.failures import StageError


def require_torch_model(model: SourceModel) -> None:
    """Raise StageError for a model that torch can't run."""
    if model.module is None:
        raise StageError("unsupported_format", f"torch runs no {model.format.upper()} files", "use --backend onnxruntime or openvino")


def require_device(device: str) -> None:
    """Raise StageError where the device is not there."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise StageError("missing_device", f"device {device}: torch sees no CUDA device", "use --device cpu")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # torch's own default for convolutions: fp32 in name


def at_precision(model: SourceModel, options: CompileOptions) -> AtPrecision:
    """The module at the asked precision on the device, and by what tool. The source's own module stays as it was."""
    import copy

    import torch

    module = model.module if model.format == "torchscript" else copy.deepcopy(model.module)
    if options.precision == "fp32" or (model.format == "torchscript" and options.precision == model.held):
        return AtPrecision(module.to(options.device), "as the model is")
    if model.format == "torchscript":
        raise StageError("unsupported_precision", "a TorchScript file keeps its own precision", "use --precision fp32")
    if options.precision == "int8":
        return quantised(module, model, options)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float16
    return AtPrecision(module.to(options.device, dtype), f"module.to({dtype})")


def save_weights(module: Any, work: Path) -> Path:
    """What would be shipped: the state as plain tensors, written as torch writes them (read back with weights_only)."""
    import torch

    path = work / "model.pt"
    if isinstance(module, torch.jit.ScriptModule):
        module.save(str(path))
    else:
        torch.save(dict(plain_tensors(module.state_dict())), path)
    return path


def opened(call: Any, model: SourceModel, asked: CompileOptions, options: LoadOptions) -> TorchSession:
    """A session of what `compile` made, with the threads that it is to have."""
    import torch

    torch.set_num_threads(options.threads)
    return TorchSession(call, model.card.outputs, model.input_names, options.device, asked.precision)


class TorchSession:
    """Runs a callable of tensors. `dtype` is what floating inputs are cast to."""

    def __init__(self, call: Any, outputs: list[str], inputs: list[str], device: str, precision: str) -> None:
        import torch

        self._call, self._outputs, self._inputs, self._device = call, outputs, inputs, device
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()

    def tensors(self, inputs: Arrays) -> tuple[Any, ...]:
        """The inputs as tensors on the device, in the model's order."""
        import torch

        made = []
        for name in self._inputs:
            tensor = torch.from_numpy(inputs[name])
            cast = self._dtype if self._dtype is not None and tensor.is_floating_point() else None
            made.append(tensor.to(self._device, cast) if cast or self._device != "cpu" else tensor)
        return tuple(made)

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        """See the contract. Copying the outputs to the host waits for the device."""
        import torch

        with torch.inference_mode():
            outputs = self._call(*self.tensors(inputs))
            return {
                name: (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
                for name, tensor in zip(self._outputs, outputs, strict=True)
            }

    def device_memory_bytes(self) -> int | None:
        """Peak of what torch's allocator held on the GPU."""
        import torch

        return int(torch.cuda.max_memory_allocated()) if self._device.startswith("cuda") else None
