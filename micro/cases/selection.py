"""Which cases a command is about: of an operator, a workload file, a suite; for each provider."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bytemlperf.errors import UserError
from engines.untrusted import decode_json
from micro.cases.case import Arguments, BadCase, Case, validate
from micro.cases.workload_file import RawCase, expand, read_workloads, translated
from micro.providers.registry import find_provider, provider_names
from micro.registry import OPERATORS, find_operator

BASIC = Path(__file__).with_name("basic.json")
SUITES = {"basic": BASIC}
"""A workload file each. Every operator has cases in the basic one."""
Checked = tuple[str, Arguments, str]
"""An operator's name, arguments, and why the case can't be tried ("" where it can)."""


def operator_cases(name: str, given: Sequence[str], providers: Sequence[str]) -> list[Case]:
    """One operator's basic cases with NAME=VALUES in their place. Raises UserError: what was typed must fit."""
    operator = find_operator(name)
    chosen = dict(_pair(text) for text in given)
    try:
        cases = [args | changed for args in basic_cases(name) for changed in expand(chosen)]
        checked = [validate(operator, args) for args in cases]
    except (BadCase, ValueError) as bad:
        raise UserError(str(bad), f"see its arguments with: bmp micro list; give them with --arg NAME=VALUE (for {name})") from None
    return for_providers([(name, args, "") for args in checked], providers)


def workload_cases(path: Path, providers: Sequence[str]) -> list[Case]:
    """A file's or folder's cases. What is unknown or impossible is a refused case. Raises UserError for a file that can't be read."""
    return for_providers([_checked(raw) for raw in read_workloads(path)], providers)


def suite_cases(suite: str, providers: Sequence[str]) -> list[Case]:
    """Every operator's cases of a suite. Raises UserError where there is no such suite."""
    if suite not in SUITES:
        raise UserError(f"there is no suite '{suite}'", f"there is: {', '.join(SUITES)}")
    return workload_cases(SUITES[suite], providers)


def basic_cases(name: str) -> list[Arguments]:
    """An operator's cases of the basic suite, not yet validated."""
    return [case.args for case in read_workloads(BASIC) if case.op == name]


def for_providers(cases: Iterable[Checked], providers: Sequence[str]) -> list[Case]:
    """Each case for each provider, once. Raises UserError for a provider that isn't there."""
    names = provider_names() if list(providers) == ["all"] else list(providers or ["torch"])
    for name in names:
        find_provider(name)
    each_provider = (Case(op=op, provider=name, args=args, refusal=refusal) for op, args, refusal in cases for name in names)
    return list({case.key: case for case in each_provider}.values())


def _checked(raw: RawCase) -> Checked:
    if raw.refusal:
        return raw.op, raw.args, f"{raw.source}: {raw.refusal}"
    if raw.op not in OPERATORS:
        return raw.op, raw.args, f"{raw.source}: there is no operator '{raw.op}'"
    try:
        return raw.op, validate(OPERATORS[raw.op], translated(OPERATORS[raw.op], raw.args)), ""
    except BadCase as bad:
        return raw.op, raw.args, f"{raw.source}: {bad}"


def _pair(text: str) -> tuple[str, object]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"'{text}' is not NAME=VALUE", "such as --arg M=128,256 or --arg dtype=bfloat16")
    if values.startswith("["):
        try:
            return name, decode_json(values)
        except ValueError as error:
            raise UserError(f"'{text}' is not JSON: {error}", "such as --arg 'K.N=[[128,256]]'") from None
    return name, [_value(value) for value in values.split(",")]


def _value(text: str) -> object:
    try:
        return decode_json(text)
    except ValueError:
        return text
