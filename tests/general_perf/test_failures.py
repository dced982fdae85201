"""What libraries raise is sorted into the closed list; texts are theirs, as these versions write them."""

from __future__ import annotations

import pytest

from bytemlperf.extras import MissingPackage
from general_perf.failures import ERROR_CLASSES, MAX_REASON_CHARS, StageError, classify

COMPILE = ("compile", "failed")


@pytest.mark.parametrize(
    ("error", "stage", "status", "error_class"),
    [
        (
            RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Add(14)"),
            "compile",
            "failed",
            "unsupported_operator",
        ),
        (
            RuntimeError("This is an invalid model. Type Error: Type 'tensor(bfloat16)' of input parameter"),
            "compile",
            "failed",
            "unsupported_operator",
        ),
        (
            RuntimeError("ONNX Runtime only *guarantees* support for models stamped with official released opset version 26"),
            "compile",
            "failed",
            "unsupported_opset",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
            "performance",
            "failed",
            "out_of_memory",
        ),
        (MemoryError(), "performance", "failed", "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "performance", "failed", "out_of_memory"),
        (RuntimeError("Protobuf parsing failed."), "compile", "failed", "corrupt_weights"),
        (ValueError("shape mismatch: the backend returned [2], the reference [3]"), "numerics", "failed", "shape_mismatch"),
        (RuntimeError("The expanded size of the tensor (9) must match the existing size (8)"), "load", "failed", "shape_mismatch"),
        (
            RuntimeError("This is an invalid model. Error No Op registered for Frob with domain_version of 17"),
            *COMPILE,
            "unsupported_operator",
        ),
        (RuntimeError("INVALID_GRAPH : Unrecognized attribute: ceil_mode for operator MaxPool"), *COMPILE, "corrupt_weights"),
        (RuntimeError("Unsupported model IR version: 99, max supported IR version: 14"), *COMPILE, "unsupported_opset"),
        (OSError("the config file at 'x/config.json' is not a valid JSON file."), *COMPILE, "corrupt_weights"),
        (RuntimeError("You set `ignore_mismatched_sizes` to `False`, thus raising an error."), *COMPILE, "shape_mismatch"),
        (RuntimeError("expand: attempting to expand a dimension of length 512 -> 1000!"), *COMPILE, "shape_mismatch"),
        (RuntimeError("Can't set the input tensor with index: 0, because the shapes are incompatible"), *COMPILE, "shape_mismatch"),
        (RuntimeError("Expected one of cpu, cuda device type at start of device string: tpu"), "compile", "refused", "missing_device"),
        (ModuleNotFoundError("No module named 'openvino'"), "compile", "refused", "missing_package"),
        (MissingPackage("backend x needs y, not installed here", "pip install z"), "compile", "refused", "missing_package"),
        (StageError("unsupported_format", "cause", "fix"), "compile", "refused", "unsupported_format"),
        (StageError("missing_weights", "cause", "fix"), "compile", "failed", "missing_weights"),
        (KeyError("anything"), "compile", "failed", "compile_error"),
        (KeyError("anything"), "performance", "failed", "runtime_error"),
    ],
)
def test_sorted(error, stage, status, error_class):
    found = classify(error, stage)
    assert (found.status, found.error_class) == (status, error_class)
    assert found.error_class in ERROR_CLASSES
    assert found.fix


def test_a_reason_is_one_short_line_without_escapes():
    found = classify(RuntimeError("first\nsecond \x1b[31m" + "x" * 5000), "compile")
    assert "\n" not in found.reason
    assert "\x1b" not in found.reason
    assert len(found.reason) == MAX_REASON_CHARS
