"""`bmp micro check PROVIDER`: the correctness suite for whoever writes kernels.

Every operator's basic cases, then each of their sizes changed, one at a time, to what kernels get wrong: one,
and values that no tile divides; in every number format that the operator takes. Each case runs in the worker
like any other, is compared with the reference, again on other values in the same memory, and not timed. A refusal
is an answer, a wrong or crashed case is not: the exit status is 1 then, and also when nothing at all was computed.
`bmp micro check --cheats` turns it round: providers that cheat, timed as in a run, must all be caught.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from micro.cases.case import BadCase, Case, case_text, validate
from micro.cases.workload_file import expand
from micro.command.flags import Flags
from micro.command.live import SweepView
from micro.command.settings import settings_of
from micro.measure.estimate import Rates, estimate
from micro.measure.messages import Job, Outcome
from micro.measure.timing import Rules
from micro.operators.contract import Argument, Operator
from micro.providers.cheats import CHEATS
from micro.providers.registry import find_provider
from micro.registry import OPERATORS, find_operator
from micro.sweep.row import Row, plain_row
from micro.sweep.sweep import RUNNERS, CaseRunner, Settings

ODD_SIZES = (1, 3, 17, 129)
MOST_CASES, MOST_PER_FORMAT = 24, 8
"""Of one operator in its first number format, and in each other one, beside its basic cases."""

SMALL = 256
"""Sizes of the awkward cases, at most: a mistake shows as well in a small one."""

RULES = {"worker": Rules(max_samples=0), "ranks": Rules(warm_up_s=0.0, budget_s=0.0, min_samples=1, max_samples=1)}
"""Nothing is timed; ranks take one sample, which is how they leave a case together."""

PIPED_WIDTH = 160
SHOWN_FAULTS = 20
EXIT_WRONG = 1


def check_provider(provider: str, only: Sequence[str], flags: Flags, out: Path | None) -> int:
    """Run the suite, show it, and return the exit status. Raises UserError for bad input."""
    from rich.console import Console

    find_provider(provider)
    operators = [find_operator(name) for name in only] or list(OPERATORS.values())
    settings = _settings(flags)
    cases = [Case(op=operator.name, provider=provider, args=args) for operator in operators for args in check_cases(operator)]
    with SweepView(Console(stderr=True), quiet=False) as view:
        rows = _rows(cases, settings, view, out)
    _show(rows, provider)
    counts = Counter(row.status for row in rows)
    return 0 if counts["ok"] and not counts["failed"] else EXIT_WRONG


def _settings(flags: Flags) -> Settings:
    """Of the device, the seed and the time limit of a case; the rest is this machine's."""
    return msgspec.structs.replace(settings_of(flags), cache_bytes=0)


def _rows(cases: Sequence[Case], settings: Settings, view: SweepView, out: Path | None, rules: Rules | None = None) -> list[Row]:
    """Every case's row, shown and written as soon as it is known."""
    rows: list[Row] = []
    with _Writer(out) as writer:
        view.plan(len(cases))
        for case, outcome in _run(cases, settings, view, rules):
            row = plain_row(case, settings.device, outcome.status, outcome.reason)
            rows.append(msgspec.structs.replace(row, note=outcome.note, check=outcome.checked))
            writer.add(rows[-1])
            view.add(rows[-1])
    return rows


CHEATED: dict[str, dict[str, Any]] = {
    "gemm": {"M": 512, "K": 1024, "N": 1024},
    "quant_matmul": {"num_tokens": 64, "hidden_size": 128, "new_hidden_size": 96},
    "softmax": {"batch_size": 64, "dim_size": 512, "dtype": "bfloat16"},
    "add": {"batch_size": 64, "dim_size": 256},
    "flash_attention": {"q_head_num": 8, "kv_head_num": 2, "head_dim": 64, "q_len": 8, "cache_len": 120, "block_size": 16},
    "head_rms_norm": {"num_tokens": 16, "total_head_num": 8, "head_dim": 64, "norm_head_start": 2, "norm_head_num": 4},
    "index_add": {"src_batch_size": 64, "dst_batch_size": 64, "dim_size": 64},
}
CHEAT_RULES = Rules(warm_up_s=0.02, budget_s=0.05)
CONTROL = "torch"


def check_cheats(only: Sequence[str], flags: Flags, out: Path | None) -> int:
    """Run every cheating provider, and torch as the control; 1 where one isn't caught. Raises UserError for bad input."""
    from rich.console import Console

    unknown = sorted(set(only) - set(CHEATED))
    if unknown:
        raise UserError(f"no cheat is tried on '{unknown[0]}'", f"there are cases of {', '.join(CHEATED)}")
    settings = _settings(flags)
    args = {name: validate(OPERATORS[name], given) for name, given in CHEATED.items() if name in only or not only}
    cases = [Case(op=name, provider=provider, args=args[name]) for provider in (CONTROL, *CHEATS) for name in args]
    with SweepView(Console(stderr=True), quiet=False) as view:
        rows = _rows(cases, settings, view, out, CHEAT_RULES)
    console = Console(highlight=False, soft_wrap=True)
    passed = 0
    for row in rows:
        right = (row.status == "ok") == (row.provider == CONTROL)
        passed += right
        word = ("right" if row.provider == CONTROL else "caught") if right else "NOT CAUGHT" if row.status == "ok" else "WRONG"
        word = "not tried" if row.status == "refused" else word
        console.print(f"{word}: {row.provider} on {row.op}: {row.reason or find_provider(row.provider).help}", markup=False)
    console.print(f"{passed} of {len(rows)} as they should be", markup=False)
    return 0 if passed == len(rows) else EXIT_WRONG


def check_cases(operator: Operator) -> list[dict[str, Any]]:
    """The basic cases, and awkward ones: validated, each once."""
    basic = [validate(operator, args) for case in operator.basic for args in expand(case)]
    found = {case_text(operator.name, args): args for args in basic}
    for number, args in enumerate(_every_format(operator, max(basic, key=lambda args: operator.cost(args).resident_bytes))):
        awkward = list(_awkward(operator, args))
        step = -(-len(awkward) // (MOST_PER_FORMAT if number else MOST_CASES))
        for each in awkward[number % step :: step]:  # each format others
            found.setdefault(case_text(operator.name, each), each)
    return list(found.values())


def _every_format(operator: Operator, args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The case with each of its first number format's choices, where it is possible."""
    formats = [argument for argument in operator.arguments if argument.kind == "dtype"]
    for choice in formats[0].choices if formats else ():
        changed = _possible(operator, args | {formats[0].name: choice})
        if changed is not None:
            yield changed
    if not formats:
        yield args


def _awkward(operator: Operator, args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything small, then one size after the other odd."""
    sizes = [argument for argument in operator.arguments if argument.kind == "int" and argument.name != "world_size"]
    small = _possible(operator, args | {size.name: _within(size, min(args[size.name], SMALL)) for size in sizes}) or args
    yield small
    for odd in ODD_SIZES:
        for size in sizes:
            changed = _possible(operator, small | {size.name: _within(size, odd)})
            if changed is not None:
                yield changed


def _within(argument: Argument, value: int) -> int:
    return max(argument.low, min(argument.high, value))


def _possible(operator: Operator, args: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return validate(operator, args)
    except BadCase:
        return None


def _run(cases: Sequence[Case], settings: Settings, view: SweepView, rules: Rules | None) -> Iterator[tuple[Case, Outcome | Any]]:
    runners: dict[str, CaseRunner] = {}
    try:
        for place, case in enumerate(cases):
            view.begins(case, place)
            yield case, _one(case, settings, runners, rules or RULES[OPERATORS[case.op].runner])
    finally:
        for runner in runners.values():
            runner.close()


def _one(case: Case, settings: Settings, runners: dict[str, CaseRunner], rules: Rules) -> Any:
    operator = OPERATORS[case.op]
    expected = estimate(operator, case.args, case.provider, Rates(), 0)
    if settings.max_memory_bytes is not None and expected.memory_bytes > settings.max_memory_bytes:
        return _Skipped(f"needs about {expected.memory_bytes / 2**30:.3g} GiB, more than is free")
    job = Job(
        op=case.op,
        provider=case.provider,
        args=case.args,
        device=settings.device,
        seed=settings.seed,
        rules=rules,
        cache_bytes=0,
    )
    runner = runners.get(operator.runner) or RUNNERS[operator.runner](settings)
    refusal = runner.refusal(job)
    if refusal:
        return Outcome(status="refused", reason=refusal)
    if operator.runner not in runners:
        runners[operator.runner] = runner
        runner.hello()
    return runner.run(job, settings.max_case_s)


class _Skipped:
    """Stands for an outcome where there was none."""

    status, note, checked = "skipped", "", None

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Writer:
    def __init__(self, path: Path | None) -> None:
        self._file = None
        if path is not None:
            try:
                self._file = path.open("wb", buffering=0)
            except OSError as error:
                raise UserError(f"can't write {path}: {error.strerror}", "give --out a file in a folder that you can write") from None

    def add(self, row: Row) -> None:
        if self._file is not None:
            self._file.write(msgspec.json.encode(row) + b"\n")

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            self._file.close()


def _show(rows: Sequence[Row], provider: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    by_op: dict[str, list[Row]] = {}
    for row in rows:
        by_op.setdefault(row.op, []).append(row)
    table = Table(title=f"{provider}: results against the reference", title_justify="left", box=None, header_style="bold")
    for column in ("operator", "right", "wrong", "refused", "skipped", "largest error", "refused because"):
        table.add_column(column, justify="left" if column in ("operator", "refused because") else "right", overflow="fold")
    for op, group in by_op.items():
        counts = Counter(row.status for row in group)
        errors = [row.check.max_absolute_error for row in group if row.status == "ok" and row.check]
        why = next((row.reason for row in group if row.status == "refused"), "")
        cells = [str(counts[status] or "–") for status in ("ok", "failed", "refused", "skipped")]
        style = "red" if counts["failed"] else ""
        table.add_row(op, *cells, f"{max(errors):.2g}" if errors else "–", Text(why), style=style)
    console.print(table)
    faults = [row for row in rows if row.status == "failed"]
    for row in faults[:SHOWN_FAULTS]:
        console.print(Text(f"wrong: {row.key}: {row.reason}"), soft_wrap=True)
    if len(faults) > SHOWN_FAULTS:
        console.print(f"and {len(faults) - SHOWN_FAULTS} more; all are in the file of --out", markup=False)
    counts = Counter(row.status for row in rows)
    console.print(f"{counts['ok']} right, {counts['failed']} wrong, {counts['refused']} refused, {counts['skipped']} skipped", markup=False)
