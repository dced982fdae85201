"""The flags that all sweeping commands of `bmp micro` share."""

from typing import Annotated, Literal

from bytemlperf.command.flags import Device, MetricsOutput, Option, Options, RunOutput


class Measuring(Options, panel="Measuring"):
    """What is measured, and how."""

    providers: Annotated[tuple[str, ...], Option("Kernel provider (repeatable), or 'all'. Default: torch.", "--provider -p")] = ()
    device: Device = "cpu"
    threads: Annotated[
        int | None,
        Option(
            "Threads of CPU kernels; 0 leaves it to the library. Default: OMP_NUM_THREADS, else one a physical core that "
            "this process may use; collectives share them out among the ranks.",
            least=0,
        ),
    ] = None
    hot: Annotated[bool, Option("Reuse one buffer set (warm caches) instead of rotating through more than the cache holds.")] = False
    seed: Annotated[int, Option("Seed of the random inputs.", least=0)] = 0
    seconds: Annotated[float | None, Option("Maximum sampling time per case, in seconds. Default: 2, in `all` 0.5.", least=0.01)] = None
    ci_width: Annotated[float, Option("Stop sampling when the median's 95 % interval is this share of it.", least=1e-4)] = 0.01
    peaks: Annotated[
        Literal["auto", "fresh", "off"],
        Option(
            "This machine's own peaks, for efficiencies: 'auto' (default) takes those in the cache and measures the others first, "
            "'fresh' measures all of them, 'off' does without."
        ),
    ] = "auto"
    card: Annotated[str | None, Option("Spec card to compare with, as in `bmp hardware list`. Default: the device's own.")] = None


class Limits(Options, panel="Limits"):
    """What ends a case or a sweep."""

    budget_s: Annotated[float | None, Option("Time budget of the sweep in seconds; cases beyond it are recorded as skipped.", least=0)] = (
        None
    )
    time_limit_s: Annotated[float, Option("Timeout of a case in seconds: skip one that would exceed it, end one that does.", least=0.1)] = (
        60.0
    )
    memory_limit: Annotated[str | None, Option("Memory limit, such as 4GiB: skip cases that need more. Default: 80 % of free memory.")] = (
        None
    )


class Exports(Options, panel="Output"):
    """Files beside the run folder's own."""

    csv: Annotated[bool, Option("Also write a CSV file with xpu-perf's field names.")] = False
    jsonl: Annotated[bool, Option("Also write a JSONL file with xpu-perf's field names.")] = False


class Flags(Measuring, Limits, RunOutput, Exports, MetricsOutput):
    """The command line of a sweep."""
