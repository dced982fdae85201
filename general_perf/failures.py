"""Why a model failed on a backend: a closed list of classes, and one boundary that sorts exceptions into it.

A stage that knows what is wrong raises `StageError` with class, cause and fix. Whatever a library raises
is sorted by its type and text; what fits nothing is `compile_error` or `runtime_error` by stage, with
the library's own first line. Nothing is swallowed: every failure becomes a row.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from bytemlperf.command.exits import one_line
from bytemlperf.extras import MissingPackage

ErrorClass = Literal[
    "missing_package",
    "missing_weights",
    "corrupt_weights",
    "missing_dataset",
    "shape_mismatch",
    "unsupported_operator",
    "unsupported_opset",
    "unsupported_precision",
    "unsupported_format",
    "missing_device",
    "out_of_memory",
    "time_limit",
    "crashed",
    "compile_error",
    "runtime_error",
    "stopped",
]
ERROR_CLASSES: tuple[str, ...] = get_args(ErrorClass)
REFUSALS = ("unsupported_precision", "unsupported_format", "missing_package", "missing_device")
"""Classes of what a backend doesn't offer, as against what it tried and failed at."""

MAX_REASON_CHARS = 400
LIBRARY_LOG = "the library's own messages are in the run folder's logs/"


class StageError(Exception):
    """A failure whose class is known where it is raised."""

    def __init__(self, error_class: ErrorClass, cause: str, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.error_class, self.cause, self.fix = error_class, cause, fix


class Failure(NamedTuple):
    """What a record says of a failure."""

    status: Literal["failed", "refused"]
    error_class: ErrorClass
    reason: str
    fix: str


_BY_TEXT: tuple[tuple[str, ErrorClass, str], ...] = (
    (
        r"opset|Unsupported model IR version",
        "unsupported_opset",
        "export with an older opset (--backend-option opset=N where it is exported here), or update the backend",
    ),
    (
        r"out of memory|bad_alloc|can't allocate|cannot allocate|failed to allocate|not enough memory|insufficient memory",
        "out_of_memory",
        "use a smaller batch or --size small, or raise --memory-limit",
    ),
    (
        r"not implemented|NOT_IMPLEMENTED|could not find an implementation|unsupported operation|no conversion rule|not supported for|"
        r"is not a registered (function|op)|UnsupportedOperator|Unsupported op|No ONNX function found|could not run 'aten|"
        r"operations which were not converted|Type Error: Type 'tensor|No Op registered for",
        "unsupported_operator",
        "use another backend or precision; the operator is named in the reason",
    ),
    (
        r"protobuf parsing failed|INVALID_PROTOBUF|not a ZIP archive|PytorchStreamReader|HeaderTooLarge|header too large|"
        r"InvalidHeader|MetadataIncompleteBuffer|Error while deserializing header|invalid magic number|Incomplete metadata|"
        r"INVALID_GRAPH|This is an invalid model|is not a valid JSON file",
        "corrupt_weights",
        "download or rebuild the weight file",
    ),
    (r"at start of device string", "missing_device", "use --device cpu or cuda"),
    (
        r"size mismatch|shape mismatch|shapes? cannot be multiplied|Got invalid dimensions|invalid rank|Invalid Feed|"
        r"incompatible with the corresponding|The expanded size|must match the size|same size as position|incompatible shape|"
        r"doesn't match the config|doesn't match model|Sizes of tensors must match|Broadcast|broadcastable|"
        r"attempting to expand a dimension|Can't set the input tensor|ignore_mismatched_sizes|Unexpected input data type",
        "shape_mismatch",
        "give the shapes that the model takes with --dim and --batch-size, or fix the card",
    ),
)


def classify(error: BaseException, stage: str) -> Failure:
    """The failure of an exception raised in `stage`. Never raises."""
    if isinstance(error, StageError):
        return _failure(error.error_class, error.cause, error.fix)
    if isinstance(error, MissingPackage):
        return _failure("missing_package", error.cause, error.fix)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return _failure("out_of_memory", text, _BY_TEXT[1][2])
    if isinstance(error, ModuleNotFoundError) or isinstance(error.__cause__, ModuleNotFoundError):
        return _failure("missing_package", text, "pip install 'bytemlperf-llm[general]'")
    for pattern, error_class, fix in _BY_TEXT:
        if re.search(pattern, text, re.IGNORECASE):
            return _failure(error_class, text, fix)
    return _failure("runtime_error" if stage in ("performance", "numerics", "accuracy", "load") else "compile_error", text, LIBRARY_LOG)


def _failure(error_class: ErrorClass, reason: str, fix: str) -> Failure:
    reason = one_line(reason)
    if len(reason) > MAX_REASON_CHARS:
        head = MAX_REASON_CHARS // 3  # the rest from the end: long messages begin with paths and signatures, and end with the fact
        reason = reason[:head] + "…" + reason[head + 1 - MAX_REASON_CHARS :]
    return Failure("refused" if error_class in REFUSALS else "failed", error_class, reason, fix)
