"""torch.compile with inductor. Compiles for each batch size as torch.compile does it: the first fixed, later ones dynamic.

Coverage comes from a second capture by TorchDynamo whose graphs count their operators and FLOPs while they run:
what the whole call does beside that is what Python and eager mode kept. Where one graph holds the whole call (TorchDynamo
proves it, or refuses), operators that eager mode has beside it were resolved while tracing: they are no fallback.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from bytemlperf.extras import require
from bytemlperf.models.torch_flops import count_call
from general_perf.backends.contract import Arrays, Compiled, CompileOptions, Coverage, SourceModel
from general_perf.backends.torch_common import Payload, TorchBackend, at_precision
from general_perf.measure.flops import with_model_flops

require("backend torch-inductor", "general", "torch")
import torch  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402

MAX_REASONS = 5
NO_ARTEFACT = "no artefact is kept: inductor's kernels live in its cache"


class TorchInductor(TorchBackend):
    """Runs the module through torch.compile."""

    name = "torch-inductor"
    about = "torch.compile with inductor"

    def compile(self, model: SourceModel, options: CompileOptions) -> Compiled:
        torch.set_num_threads(options.threads)
        source = at_precision(model, options)
        mode = options.extra.get("mode", "default")
        if source.products is not None:
            # Weights are taken as constants, without which inductor finds no int8 kernels. For the whole process, which is
            # the job's: TorchDynamo looks at it whenever it traces, and an option of one call comes later.
            torch._inductor.config.freezing = True
        payload = Payload(torch.compile(source.module, mode=mode), source, model, options)
        before = _int8_kernels()
        payload.session(options.device).predict(options.example)
        notes = [NO_ARTEFACT]
        if source.products is not None:
            kernels = f"{_int8_kernels() - before} int8 kernels of oneDNN for the first batch size, by inductor's own count (freezing)"
            notes += [source.products.in_words(), kernels]
        kernels_of = "fusion, memory planning, generated C++ kernels" if options.device == "cpu" else "Triton kernels"
        return Compiled(
            payload=payload,
            options={"mode": mode, "dynamic": "automatic", **source.options},
            optimisations=(f"inductor: {kernels_of}",),
            precision_tool=source.tool,
            calibration=source.calibration,
            notes=tuple(notes),
        )

    def coverage(self, compiled: Compiled, inputs: Arrays) -> Coverage:
        payload: Payload = compiled.payload
        module, tensors = payload.source.module, payload.tensors(inputs)
        captured = _capture(module, tensors)
        whole = count_call(module, tensors)
        beside = whole.names - captured.names
        outside = Counter() if captured.whole else beside
        names = captured.names if captured.whole else whole.names
        nodes = sum(names.values())
        taken = nodes - sum(outside.values())
        coverage = Coverage(
            method="operators and FLOPs of one call inside the graphs that TorchDynamo captured, against the same call in eager mode",
            nodes=nodes,
            taken_nodes=taken,
            graph_share=taken / nodes if nodes else None,
            flops=whole.flops,
            flops_share=min(captured.flops, whole.flops) / whole.flops if whole.flops else None,
            partitions=captured.graphs,
            fallback_operators=dict(sorted(outside.items())),
            details={
                "graph_breaks": sum(captured.breaks.values()),
                "break_reasons": dict(list(captured.breaks.items())[:MAX_REASONS]),
                "resolved_while_tracing": dict(sorted(beside.items())) if captured.whole else {},
                "operators_without_flops_formula": whole.uncounted,
                **(payload.source.products.details() if payload.source.products else {}),
            },
        )
        return with_model_flops(coverage, payload.model, inputs)


def _int8_kernels() -> int:
    """How many int8 products (oneDNN's qconv and qlinear) inductor has lowered in this process so far."""
    return sum(int(times) for name, times in counters["inductor"].items() if name.startswith("q") and name.endswith("_lower_count"))


class Captured(NamedTuple):
    """What TorchDynamo captured of one call. `whole`: one graph that left nothing to Python."""

    names: Counter[str]
    flops: int
    graphs: int
    breaks: dict[str, int]
    whole: bool


def _capture(module: torch.nn.Module, tensors: tuple[torch.Tensor, ...]) -> Captured:
    """First as one whole graph, which TorchDynamo proves or refuses; then with breaks allowed."""
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
        return Captured(count.names, count.flops, count.graphs, breaks, whole)
    raise AssertionError("a capture that allows breaks ends or raises")


class _Counting:
    """A backend for torch.compile whose graphs count their operators and FLOPs while they run."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.flops = self.graphs = 0

    def backend(self, graph: torch.fx.GraphModule, _example: list[torch.Tensor]) -> Callable[..., Any]:
        self.graphs += 1

        @torch._dynamo.disable  # type: ignore[untyped-decorator]
        def run(*tensors: torch.Tensor) -> Any:
            outputs = []
            counted = count_call(lambda *args: outputs.append(graph.forward(*args)), tensors)
            self.names.update(counted.names)
            self.flops += counted.flops
            return outputs[0]

        return run
