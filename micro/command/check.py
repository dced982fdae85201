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
from contextlib import nullcontext
from pathlib import Path

import msgspec

from bytemlperf.command.console import print_sections, terminal
from bytemlperf.errors import UserError
from bytemlperf.runs.files import writing
from bytemlperf.runs.kinds import Table, Text
from bytemlperf.runs.records import grouped
from micro.cases.case import Arguments, BadCase, Case, case_text, validate
from micro.cases.selection import basic_cases
from micro.command.flags import Flags
from micro.command.live import SweepView
from micro.command.run import settings_of
from micro.measure.timing import Rules
from micro.operators.contract import Argument, Operator
from micro.providers.cheats import CHEATS
from micro.providers.registry import find_provider
from micro.registry import OPERATORS, find_operator
from micro.sweep.row import STATUSES, Row
from micro.sweep.sweep import Sweep

ODD_SIZES = (1, 3, 17, 129)
MOST_CASES, MOST_PER_FORMAT = 24, 8
"""Of one operator in its first number format, and in each other one, beside its basic cases."""

SMALL = 256
"""Sizes of the awkward cases, at most: a mistake shows as well in a small one."""

UNTIMED = Rules(warm_up_s=0.0, budget_s=0.0, min_samples=1, max_samples=0)
"""Nothing is timed; ranks take one sample, which is how they leave a case together."""

SHOWN_FAULTS = 20
EXIT_WRONG = 1


def check_provider(provider: str, only: Sequence[str], flags: Flags, out: Path | None) -> int:
    """Run the suite, show it, and return the exit status. Raises UserError for bad input."""
    find_provider(provider)
    operators = [find_operator(name) for name in only] or list(OPERATORS.values())
    cases = [Case(op=operator.name, provider=provider, args=args) for operator in operators for args in check_cases(operator)]
    rows = _swept(cases, flags, UNTIMED, out)
    _show(rows, provider)
    counts = Counter(row.status for row in rows)
    return 0 if counts["ok"] and not counts["failed"] else EXIT_WRONG


def _swept(cases: Sequence[Case], flags: Flags, rules: Rules, out: Path | None) -> list[Row]:
    """Every case's row, shown and, where there is a file, written as a line of JSON as soon as it is known. Of the flags the device,
    the seed and the time limit count."""
    rows: list[Row] = []
    settings = msgspec.structs.replace(settings_of(flags), cache_bytes=0, rules=rules)
    with writing(out, "give --out a file in a folder that you can write"):
        opened = nullcontext() if out is None else out.open("wb", buffering=0)
    with SweepView(quiet=False) as view, opened as file:

        def keep(row: Row) -> None:
            rows.append(row)
            if file is not None:
                file.write(msgspec.json.encode(row) + b"\n")
            view.add(row)

        view.begin(len(cases))
        Sweep(settings, keep, begins=view.begins).run(cases)
    return rows


CHEATED: dict[str, Arguments] = {
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
    unknown = sorted(set(only) - set(CHEATED))
    if unknown:
        raise UserError(f"no cheat is tried on '{unknown[0]}'", f"there are cases of {', '.join(CHEATED)}")
    args = {name: validate(OPERATORS[name], given) for name, given in CHEATED.items() if name in only or not only}
    cases = [Case(op=name, provider=provider, args=args[name]) for provider in (CONTROL, *CHEATS) for name in args]
    rows = _swept(cases, flags, CHEAT_RULES, out)
    lines, passed = [], 0
    for row in rows:
        right = (row.status == "ok") == (row.provider == CONTROL)
        passed += right
        word = ("right" if row.provider == CONTROL else "caught") if right else "NOT CAUGHT" if row.status == "ok" else "WRONG"
        word = "not tried" if row.status == "refused" else word
        lines.append(f"{word}: {row.provider} on {row.op}: {row.reason or find_provider(row.provider).help}")
    lines.append(f"{passed} of {len(rows)} as they should be")
    print_sections(terminal(), [Text(body=line, style="code") for line in lines])
    return 0 if passed == len(rows) else EXIT_WRONG


def check_cases(operator: Operator) -> list[Arguments]:
    """The basic cases, and awkward ones: validated, each once."""
    basic = [validate(operator, args) for args in basic_cases(operator.name)]
    cases = {case_text(operator.name, args): args for args in basic}
    for number, args in enumerate(_every_format(operator, max(basic, key=lambda args: operator.cost(args).resident_bytes))):
        awkward = list(_awkward(operator, args))
        step = -(-len(awkward) // (MOST_PER_FORMAT if number else MOST_CASES))
        for case in awkward[number % step :: step]:  # each format others
            cases.setdefault(case_text(operator.name, case), case)
    return list(cases.values())


def _every_format(operator: Operator, args: Arguments) -> Iterator[Arguments]:
    """The case with each of its first number format's choices, where it is possible."""
    formats = [argument for argument in operator.arguments if argument.kind == "dtype"]
    for choice in formats[0].choices if formats else ():
        changed = _possible(operator, args | {formats[0].name: choice})
        if changed is not None:
            yield changed
    if not formats:
        yield args


def _awkward(operator: Operator, args: Arguments) -> Iterator[Arguments]:
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


def _possible(operator: Operator, args: Arguments) -> Arguments | None:
    try:
        return validate(operator, args)
    except BadCase:
        return None


def _show(rows: Sequence[Row], provider: str) -> None:
    columns = ("operator", "right", "wrong", "refused", "skipped", "largest error", "refused because")
    title = f"{provider}: results against the reference"
    faults, counts = [row for row in rows if row.status == "failed"], Counter(row.status for row in rows)
    lines = [f"wrong: {row.key}: {row.reason}" for row in faults[:SHOWN_FAULTS]]
    if len(faults) > SHOWN_FAULTS:
        lines.append(f"and {len(faults) - SHOWN_FAULTS} more; all are in the file of --out")
    lines.append(f"{counts['ok']} right, {counts['failed']} wrong, {counts['refused']} refused, {counts['skipped']} skipped")
    table = Table(title=title, columns=columns, rows=[_cells(op, group) for op, group in grouped(rows, lambda row: row.op).items()])
    print_sections(terminal(), [table, *(Text(body=line, style="code") for line in lines)])


def _cells(op: str, rows: Sequence[Row]) -> list[str]:
    """One operator's line."""
    counts = Counter(row.status for row in rows)
    errors = [row.check.max_absolute_error for row in rows if row.status == "ok" and row.check]
    refusal = next((row.reason for row in rows if row.status == "refused"), "")
    return [op, *(str(counts[status] or "–") for status in STATUSES), f"{max(errors):.2g}" if errors else "–", refusal]
