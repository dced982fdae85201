"""Words that a flag, a card or a backend takes. Nothing is imported here, so that `--help` is quick."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Stage = Literal["numerics", "accuracy", "performance", "coverage"]
Loop = Literal["closed", "open"]
ArrivalProcess = Literal["poisson", "constant", "gamma"]
ConvertedFormat = Literal["onnx", "openvino", "torch-export", "engine"]
PUBLISHED = "published"
"""A card's own size."""
