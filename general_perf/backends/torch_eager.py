"""torch eager: the framework as it is, what the others are measured against."""

from __future__ import annotations

from general_perf.backends.contract import Arrays, BackendInfo, Compiled, CompileOptions, Coverage, LoadOptions, SourceModel
from general_perf.backends.torch_common import TorchSession, at_precision, opened, require_device, require_torch_model, save_weights


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
        module, tool = at_precision(model, options)
        return Compiled(payload=(module, model, options), artefact=save_weights(module, options.work), precision_tool=tool)

    def load(self, compiled: Compiled, options: LoadOptions) -> TorchSession:
        module, model, asked = compiled.payload
        return opened(module, model, asked, options)

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        """Eager mode partitions nothing; the operators and FLOPs of one call are counted all the same."""
        from general_perf.backends.torch_counting import count_call

        module, model, asked = compiled.payload
        session = TorchSession(module, model.card.outputs, model.input_names, asked.device, asked.precision)
        counted = count_call(module, session.tensors(inputs))
        return Coverage(
            method="operators of one call, counted at torch's dispatcher",
            nodes=counted.operators,
            flops=counted.flops,
            reason="eager mode has no graph to partition: every operator is the framework's own",
        )
