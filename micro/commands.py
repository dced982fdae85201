"""What the commands of `bmp micro` do: gather cases, open a run folder, sweep, show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf_llm.errors import UserError
from bytemlperf_llm.runs.suite import SuiteRun
from micro.cases import BadCase, Case, validate
from micro.machine import GPU_CACHE_BYTES, MEMORY_SHARE, available_memory_bytes, last_level_cache_bytes
from micro.operators.registry import OPERATORS, find_operator
from micro.providers.registry import find_provider, provider_names
from micro.rows import Row
from micro.run_kind import last_rows
from micro.sweep import BUDGET_SPENT, Settings, Sweep
from micro.table import print_rows
from micro.timing import Rules
from micro.workload import RawCase, expand, read_workloads

EXIT_FAILED_ROWS = 1
PIPED_WIDTH = 200
SIZE_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
SIZE_UNITS |= {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Flags(NamedTuple):
    """The command line's common flags, as typed."""

    providers: list[str]
    device: str
    threads: int
    hot: bool
    seed: int
    budget_s: float | None
    max_case_s: float
    max_memory: str | None
    measure_s: float
    precision: float


def operator_cases(name: str, given: Sequence[str], flags: Flags) -> list[Case]:
    """One operator's basic cases with NAME=VALUES in their place. Raises UserError: what was typed must fit."""
    operator = find_operator(name)
    chosen = dict(_pair(text) for text in given)
    cases = []
    for basic in operator.basic:
        for args in expand(basic):
            cases += [args | changed for changed in expand(chosen)]
    try:
        checked = [validate(operator, args) for args in cases]
    except BadCase as bad:
        raise UserError(str(bad), f"see its arguments with: bmp micro --list; give them with --arg NAME=VALUE (for {name})") from None
    return _for_providers([(name, args, "") for args in checked], flags)


def workload_cases(path: Path, flags: Flags) -> list[Case]:
    """A file's or folder's cases. What is unknown or impossible is a refused case; raises UserError when all are."""
    cases = [_checked(raw) for raw in read_workloads(path)]
    if all(refusal for _, _, refusal in cases):
        raise UserError(f"nothing in {path} can be run: {cases[0][2]}", "list what there is with: bmp micro --list")
    return _for_providers(cases, flags)


def suite_cases(suite: str, flags: Flags) -> list[Case]:
    """Every operator's cases of a suite."""
    if suite != "basic":
        raise UserError(f"there is no suite '{suite}'", "there is: basic")
    found = [(operator, args) for operator in OPERATORS.values() for case in operator.basic for args in expand(case)]
    return _for_providers([(operator.name, validate(operator, args), "") for operator, args in found], flags)


def _checked(raw: RawCase) -> tuple[str, dict[str, Any], str]:
    if raw.op not in OPERATORS:
        return raw.op, raw.args, f"{raw.source}: there is no operator '{raw.op}'"
    try:
        return raw.op, validate(OPERATORS[raw.op], raw.args), ""
    except BadCase as bad:
        return raw.op, raw.args, f"{raw.source}: {bad}"


def _for_providers(cases: Iterable[tuple[str, dict[str, Any], str]], flags: Flags) -> list[Case]:
    names = provider_names() if flags.providers == ["all"] else (flags.providers or ["torch"])
    for name in names:
        find_provider(name)
    made = (Case(op=op, provider=name, args=args, refusal=refusal) for op, args, refusal in cases for name in names)
    return list({case.key: case for case in made}.values())


def run_cases(cases: list[Case], flags: Flags, runs_dir: Path, label: str, command: list[str], *, quiet: bool) -> int:
    """A new run folder with a row for each case; 1 where one failed."""
    settings = _settings(flags)
    config = {"cases": msgspec.to_builtins(cases), "settings": msgspec.to_builtins(settings)}
    packages = {package for case in cases for package in find_provider(case.provider).packages}
    run = SuiteRun.begin(runs_dir, "micro", label, config, command=command, seed=flags.seed, packages=sorted({"torch", *packages}))
    return _sweep(run, cases, settings, quiet=quiet)


def resume_run(folder: Path, budget_s: float | None, command: list[str], *, quiet: bool) -> int:
    """Cases without a row, and those that a budget left out, into the same folder."""
    run = SuiteRun.resume(folder, command=command)
    if run.run.get("kind") != "micro":
        run.end()
        raise UserError(f"{folder} is a run of kind {run.run.get('kind')}", "resume it with its own suite's command")
    cases = msgspec.convert(run.run["config"]["cases"], list[Case])
    settings = msgspec.structs.replace(msgspec.convert(run.run["config"]["settings"], Settings), budget_s=budget_s)
    done = {row["key"] for row in run.records() if not str(row["reason"]).startswith(BUDGET_SPENT)}
    return _sweep(run, [case for case in cases if case.key not in done], settings, quiet=quiet)


def _sweep(run: SuiteRun, cases: list[Case], settings: Settings, *, quiet: bool) -> int:
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet)

    def keep(row: Row) -> None:
        run.append(row)
        status.update(_progress(row, len(cases)))

    with console.status(f"{len(cases)} cases") as status, run:
        sweep = Sweep(settings, keep, begins=lambda case, place: status.update(f"{place + 1}/{len(cases)} {_plain(case.key)}"))
        try:
            sweep.run(cases)
        except KeyboardInterrupt:
            status.stop()
            console.print(f"stopped; go on with: bmp micro resume {run.folder}", markup=False, soft_wrap=True)
            raise
        finally:
            conditions = {name: msgspec.to_builtins(hello) for name, hello in sweep.hellos.items()}
            summary = run.end(stopped=_interrupted(), runners=conditions)
    if not quiet:
        _show(run, summary)
    print(run.folder)
    return EXIT_FAILED_ROWS if summary["counts"]["failed"] or summary["verdict"] != "valid" else 0


def _interrupted() -> bool:
    import sys

    return isinstance(sys.exception(), KeyboardInterrupt)


def _progress(row: Row, total: int) -> str:
    return _plain(f"{total} cases; {row.status} {row.key}")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _show(run: SuiteRun, summary: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH  # a pipe has no width: cut nothing
    print_rows(last_rows(run.records()), console)
    counts = ", ".join(f"{count} {name}" for name, count in summary["counts"].items() if count)
    console.print(f"{counts}; verdict: {summary['verdict']}", *summary["reasons"], markup=False, highlight=False)


def _settings(flags: Flags) -> Settings:
    device = "cuda:0" if flags.device == "cuda" else flags.device
    if device != "cpu" and not re.fullmatch(r"cuda:\d+", device):
        raise UserError(f"there is no device '{flags.device}'", "give cpu, cuda or cuda:N")
    if device != "cpu":
        _need_gpu(device)
    cache = 0 if flags.hot else (last_level_cache_bytes() if device == "cpu" else GPU_CACHE_BYTES)
    return Settings(
        device=device,
        threads=flags.threads,
        seed=flags.seed,
        rules=Rules(budget_s=flags.measure_s, warm_up_s=max(0.2, flags.measure_s / 2), precision=flags.precision),
        cache_bytes=cache,
        budget_s=flags.budget_s,
        max_case_s=flags.max_case_s,
        max_memory_bytes=_memory_limit(flags.max_memory, device),
    )


def _need_gpu(device: str) -> None:
    import torch

    count = torch.cuda.device_count()
    if int(device.partition(":")[2]) >= count:
        raise UserError(f"there is no device {device}: torch sees {count} GPUs", "give --device cpu")


def _memory_limit(text: str | None, device: str) -> int | None:
    if text is not None:
        return parse_size(text)
    if device == "cpu":
        available = available_memory_bytes()
    else:
        import torch

        available = torch.cuda.mem_get_info(device)[0]
    return None if available is None else int(available * MEMORY_SHARE)


def parse_size(text: str) -> int:
    """ "4GiB", "500 MB" or plain bytes. Raises UserError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in SIZE_UNITS:
        raise UserError(f"'{text}' is no size", "give bytes, or a number with KiB, MiB, GiB, KB, MB or GB")
    return int(float(match[1]) * SIZE_UNITS[match[2].upper()])


def _pair(text: str) -> tuple[str, Any]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"'{text}' is not NAME=VALUE", "such as --arg M=128,256 or --arg dtype=bfloat16")
    if values.startswith("["):
        try:
            return name, json.loads(values)
        except ValueError as error:
            raise UserError(f"'{text}' is not JSON: {error}", "such as --arg 'K.N=[[128,256]]'") from None
    return name, [_value(value) for value in values.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def print_lists() -> None:
    """Operators by family with their arguments, and providers."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    operators = Table(title="Operators", title_justify="left", box=None, header_style="bold")
    for column in ("operator", "family", "what", "arguments"):
        operators.add_column(column, overflow="fold")
    for operator in OPERATORS.values():
        arguments = " ".join(argument.name for argument in operator.arguments)
        operators.add_row(operator.name, operator.family, operator.help.replace("[", "\\["), arguments)
    providers = Table(title="\nProviders", title_justify="left", box=None, header_style="bold")
    providers.add_column("provider")
    providers.add_column("what")
    for name in provider_names():
        providers.add_row(name, find_provider(name).help)
    console.print(operators, providers)
