"""torch.compile with inductor. Compiles for each batch size as torch.compile does it: the first fixed, later ones dynamic.

Coverage comes from a second capture by TorchDynamo whose graphs count their operators and FLOPs while they run:
what the whole call does beside that is what Python and eager mode kept.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from general_perf.backends.contract import Arrays, BackendInfo, Compiled, CompileOptions, Coverage, LoadOptions, SourceModel
from general_perf.backends.torch_common import TorchSession, at_precision, require_device, require_torch_model

MODES = ("default", "max-autotune", "max-autotune-no-cudagraphs", "reduce-overhead")
MAX_REASONS = 5


class TorchInductor:
    """Runs the module through torch.compile."""

    def describe(self) -> BackendInfo:
        import torch

        return BackendInfo(
            name="torch-inductor",
            about="torch.compile with inductor",
            versions={"torch": torch.__version__},
            distributions=("torch",),
            devices=("cpu", "cuda"),
            precisions=("fp32", "bf16", "fp16", "int8"),
            formats=("torch", "torchscript"),
        )

    def compile(self, model: SourceModel, options: CompileOptions) -> Compiled:
        import torch

        require_torch_model(model)
        require_device(options.device)
        torch.set_num_threads(options.threads)
        module, tool = at_precision(model, options)
        mode = options.extra.get("mode", "default")
        compiled = torch.compile(module, mode=mode)
        session = TorchSession(compiled, model.card.outputs, model.input_names, options.device, options.precision)
        session.predict(options.example)
        return Compiled(
            payload=(compiled, module, model, options),
            options={"mode": mode, "dynamic": "automatic"},
            optimisations=(
                "inductor: fusion, memory planning, generated C++ kernels" if options.device == "cpu" else "inductor: Triton kernels",
            ),
            precision_tool=tool,
            notes=("no artefact is kept: inductor's kernels live in its cache",),
        )

    def load(self, compiled: Compiled, options: LoadOptions) -> TorchSession:
        import torch

        torch.set_num_threads(options.threads)
        call, _, model, compile_options = compiled.payload
        return TorchSession(call, model.card.outputs, model.input_names, options.device, compile_options.precision)

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        import torch
        from torch._dynamo.utils import counters

        from general_perf.backends.torch_counting import count_call

        _, module, model, options = compiled.payload
        tensors = TorchSession(module, model.card.outputs, model.input_names, options.device, options.precision).tensors(inputs)
        captured: Counter[str] = Counter()
        flops, graphs = 0, 0

        def counting_backend(graph: Any, _example: Any) -> Any:
            nonlocal graphs
            graphs += 1

            @torch._dynamo.disable  # type: ignore[untyped-decorator]
            def run(*given: Any) -> Any:
                nonlocal flops
                answers = []
                counted = count_call(lambda *each: answers.append(graph.forward(*each)), given)
                captured.update(counted.names)
                flops += counted.flops
                return answers[0]

            return run

        torch._dynamo.reset()
        counters.clear()
        with torch.no_grad():
            torch.compile(module, backend=counting_backend)(*tensors)
        breaks = {str(reason)[:200]: int(count) for reason, count in counters["graph_break"].items()}
        torch._dynamo.reset()
        whole = count_call(module, tensors)
        taken = sum((captured & whole.names).values())
        return Coverage(
            method="operators and FLOPs of one call inside the graphs that TorchDynamo captured, against the same call in eager mode",
            nodes=whole.operators,
            taken_nodes=taken,
            graph_share=taken / whole.operators if whole.operators else None,
            flops=whole.flops,
            flops_share=min(flops, whole.flops) / whole.flops if whole.flops else None,
            partitions=graphs,
            fallback_operators=dict(sorted((whole.names - captured).items())),
            details={"graph_breaks": sum(breaks.values()), "break_reasons": dict(list(breaks.items())[:MAX_REASONS])},
        )
