"""torch eager: the framework as it is, what the others are measured against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from general_perf.backends.contract import Arrays, BackendInfo, Compiled, CompileOptions, Coverage, LoadOptions, SourceModel
from general_perf.backends.torch_common import TorchSession, at_precision, opened, require_device, require_torch_model, save_weights
from general_perf.backends.torch_int8 import int8_details
from general_perf.backends.weights import of_module
from general_perf.measure.flops import with_model_flops

if TYPE_CHECKING:
    import numpy as np

ROUNDED = "eager mode runs the converted graph as it stands: values rounded to int8, products in fp32; inductor makes int8 kernels of it"


class TorchEager:
    """Runs the module, operator by operator."""

    def describe(self) -> BackendInfo:
        import torch

        return BackendInfo(
            name="torch-eager",
            about="PyTorch, operator by operator",
            versions={"torch": torch.__version__},
            distributions=("torch",),
            devices=("cpu", "cuda"),
            precisions=("fp32", "bf16", "fp16", "int8"),
            formats=("torch", "torchscript"),
        )

    def compile(self, model: SourceModel, options: CompileOptions) -> Compiled:
        require_torch_model(model)
        require_device(options.device)
        made = at_precision(model, options)
        return Compiled(
            payload=(made, model, options),
            artefact=save_weights(made.module, options.work),
            options=dict(made.options),
            precision_tool=made.tool,
            calibration=made.calibration,
            notes=(made.products.in_words(), ROUNDED) if made.products else (),
        )

    def load(self, compiled: Compiled, options: LoadOptions) -> TorchSession:
        made, model, asked = compiled.payload
        return opened(made.module, model, asked, options)

    def weights(self, compiled: Compiled) -> Iterator[np.ndarray[Any, Any]]:
        """See the contract."""
        return of_module(compiled.payload[0].module)

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        """Eager mode partitions nothing; the operators and FLOPs of one call are counted all the same."""
        from bytemlperf.models.torch_flops import count_call

        made, model, asked = compiled.payload
        session = TorchSession(made.module, model.card.outputs, model.input_names, asked.device, asked.precision)
        counted = count_call(made.module, session.tensors(inputs))
        found = Coverage(
            method="operators of one call, counted at torch's dispatcher",
            nodes=counted.operators,
            flops=counted.flops,
            details={
                "operators_without_flops_formula": counted.uncounted,
                **int8_details(made.products),
                **({"products_by_precision": {"fp32": made.products.total}} if made.products else {}),  # see ROUNDED
            },
            reason="eager mode has no graph to partition: every operator is the framework's own",
        )
        return with_model_flops(found, model, inputs)
