"""torch eager: the framework as it is, what the others are measured against."""

from __future__ import annotations

from bytemlperf.models.torch_flops import count_call
from general_perf.backends.contract import Arrays, Compiled, CompileOptions, Coverage, Details, SourceModel
from general_perf.backends.tensors import save_weights
from general_perf.backends.torch_common import Payload, TorchBackend, at_precision
from general_perf.measure.flops import with_model_flops

ROUNDED = "eager mode runs the converted graph as it stands: values rounded to int8, products in fp32; inductor makes int8 kernels of it"


class TorchEager(TorchBackend):
    """Runs the module, operator by operator."""

    name = "torch-eager"
    about = "PyTorch, operator by operator"

    def compile(self, model: SourceModel, options: CompileOptions) -> Compiled:
        source = at_precision(model, options)
        return Compiled(
            payload=Payload(source.module, source, model, options),
            artefact=save_weights(source.module, options.work),
            options=dict(source.options),
            precision_tool=source.tool,
            calibration=source.calibration,
            notes=(source.products.in_words(), ROUNDED) if source.products else (),
        )

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        """Eager mode partitions nothing; the operators and FLOPs of one call are counted all the same."""
        payload: Payload = compiled.payload
        counted = count_call(payload.call, payload.tensors(inputs))
        details: Details = {"operators_without_flops_formula": counted.uncounted}
        if products := payload.source.products:
            details |= products.details() | {"products_by_precision": {"fp32": products.total}}  # see ROUNDED
        coverage = Coverage(
            method="operators of one call, counted at torch's dispatcher",
            nodes=counted.operators,
            flops=counted.flops,
            details=details,
            reason="eager mode has no graph to partition: every operator is the framework's own",
        )
        return with_model_flops(coverage, payload.model, inputs)
