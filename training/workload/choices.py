"""Words that a workload or a flag takes. Nothing is imported here, so that `--help` is quick."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16"]
Recompute = Literal["none", "full"]
Sharding = Literal["ddp", "fsdp", "zero1"]
"""What data parallel ranks share out: nothing, weights with gradients and optimiser (FSDP2), or the optimiser alone
(Megatron-Core's distributed optimiser, the first stage of ZeRO)."""
DeviceChoice = Literal["auto", "cpu", "cuda"]
ScalingMode = Literal["strong", "weak"]
"""The same global batch, or the same batch per rank."""
