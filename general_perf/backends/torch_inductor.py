"""torch.compile with inductor. Compiles for each batch size as torch.compile does it: the first fixed, later ones dynamic.

Coverage comes from a second capture by TorchDynamo whose graphs count their operators and FLOPs while they run:
what the whole call does beside that is what Python and eager mode kept. Where one graph holds the whole call (TorchDynamo
proves it, or refuses), operators that eager mode has beside it were resolved while tracing: they are no fallback.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from general_perf.backends.contract import Arrays, BackendInfo, Compiled, CompileOptions, Coverage, LoadOptions, SourceModel
from general_perf.backends.torch_common import TorchSession, at_precision, opened, require_device, require_torch_model
from general_perf.backends.torch_int8 import Products, int8_details
from general_perf.backends.weights import of_module
from general_perf.measure.flops import with_model_flops

if TYPE_CHECKING:
    import numpy as np

MAX_REASONS = 5
NO_ARTEFACT = "no artefact is kept: inductor's kernels live in its cache"


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
        made = at_precision(model, options)
        mode = options.extra.get("mode", "default")
        compiled = torch.compile(made.module, mode=mode) if made.products is None else _with_int8_kernels(made.module, mode)
        session = TorchSession(compiled, model.card.outputs, model.input_names, options.device, options.precision)
        before = _int8_kernels()
        session.predict(options.example)
        return Compiled(
            payload=(compiled, made, model, options),
            options={"mode": mode, "dynamic": "automatic", **made.options},
            optimisations=(
                "inductor: fusion, memory planning, generated C++ kernels" if options.device == "cpu" else "inductor: Triton kernels",
            ),
            precision_tool=made.tool,
            calibration=made.calibration,
            notes=(NO_ARTEFACT, *_about_int8(made.products, _int8_kernels() - before)),
        )

    def load(self, compiled: Compiled, options: LoadOptions) -> TorchSession:
        call, _, model, asked = compiled.payload
        return opened(call, model, asked, options)

    def weights(self, compiled: Compiled) -> Iterator[np.ndarray[Any, Any]]:
        """See the contract: of the module that was compiled."""
        return of_module(compiled.payload[1].module)

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        from bytemlperf.models.torch_flops import count_call

        _, made, model, options = compiled.payload
        module = made.module
        tensors = TorchSession(module, model.card.outputs, model.input_names, options.device, options.precision).tensors(inputs)
        caught = _capture(module, tensors)
        whole = count_call(module, tensors)
        outside = Counter() if caught.whole else whole.names - caught.names
        nodes = caught.names if caught.whole else whole.names
        taken = sum(nodes.values()) - sum(outside.values())
        found = Coverage(
            method="operators and FLOPs of one call inside the graphs that TorchDynamo captured, against the same call in eager mode",
            nodes=sum(nodes.values()),
            taken_nodes=taken,
            graph_share=taken / sum(nodes.values()) if nodes else None,
            flops=whole.flops,
            flops_share=min(caught.flops, whole.flops) / whole.flops if whole.flops else None,
            partitions=caught.graphs,
            fallback_operators=dict(sorted(outside.items())),
            details={
                "graph_breaks": sum(caught.breaks.values()),
                "break_reasons": dict(list(caught.breaks.items())[:MAX_REASONS]),
                "resolved_while_tracing": dict(sorted((whole.names - caught.names).items())) if caught.whole else {},
                "operators_without_flops_formula": whole.uncounted,
                **int8_details(made.products),
            },
        )
        return with_model_flops(found, model, inputs)


def _with_int8_kernels(module: Any, mode: str) -> Any:
    """torch.compile with weights taken as constants (freezing), without which inductor finds no int8 kernels. For the
    whole process, which is the job's: TorchDynamo looks at it whenever it traces, and an option of one call comes later."""
    import torch

    torch._inductor.config.freezing = True
    return torch.compile(module, mode=mode)


def _int8_kernels() -> int:
    """How many int8 products (oneDNN's qconv and qlinear) inductor has lowered in this process so far."""
    from torch._dynamo.utils import counters

    return sum(int(times) for name, times in counters["inductor"].items() if name.startswith("q") and name.endswith("_lower_count"))


def _about_int8(products: Products | None, kernels: int) -> tuple[str, ...]:
    if products is None:
        return ()
    return (products.in_words(), f"{kernels} int8 kernels of oneDNN for the first batch size, by inductor's own count (freezing)")


class Caught(NamedTuple):
    """What TorchDynamo captured of one call. `whole`: one graph that left nothing to Python."""

    names: Counter[str]
    flops: int
    graphs: int
    breaks: dict[str, int]
    whole: bool


def _capture(module: Any, tensors: tuple[Any, ...]) -> Caught:
    """First as one whole graph, which TorchDynamo proves or refuses; then with breaks allowed."""
    import torch
    from torch._dynamo.utils import counters

    for whole in (True, False):
        count = _Counting()
        torch._dynamo.reset()
        counters.clear()
        try:
            with torch.no_grad():
                torch.compile(module, backend=count.backend, fullgraph=whole)(*tensors)
        except (torch._dynamo.exc.Unsupported, torch._dynamo.exc.UserError):
            if not whole:
                raise
            continue
        finally:
            breaks = {str(reason)[:200]: int(times) for reason, times in counters["graph_break"].items()}
            torch._dynamo.reset()
        return Caught(count.names, count.flops, count.graphs, breaks, whole)
    raise AssertionError("a capture that allows breaks ends or raises")


class _Counting:
    """A backend for torch.compile whose graphs count their operators and FLOPs while they run."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.flops = self.graphs = 0

    def backend(self, graph: Any, _example: Any) -> Any:
        import torch

        from bytemlperf.models.torch_flops import count_call

        self.graphs += 1

        @torch._dynamo.disable  # type: ignore[untyped-decorator]
        def run(*given: Any) -> Any:
            answers = []
            counted = count_call(lambda *each: answers.append(graph.forward(*each)), given)
            self.names.update(counted.names)
            self.flops += counted.flops
            return answers[0]

        return run
