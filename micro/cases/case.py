"""A case: an operator, a provider, and validated arguments."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any

import msgspec

from micro.operators.contract import REQUIRED, Args, Argument, Operator, SameAs, canonical

FORMAT_ARGUMENTS = ("arg_type", "args_type")
"""Arguments that workload files carry for the tool, not for the operator."""


Arguments = dict[str, Any]
"""A case's arguments by name: what a workload file gives, or all that the operator declares, validated."""


class BadCase(Exception):
    """What is wrong with a case's arguments, in one sentence."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What one row is about. `refusal` is why it can't even be tried (a workload's unknown operator)."""

    op: str
    provider: str
    args: Arguments
    refusal: str = ""

    @property
    def key(self) -> str:
        """Equal for equal cases, in any run: op, arguments by name, provider."""
        return f"{case_text(self.op, self.args)} [{self.provider}]"


def case_text(op: str, args: Args) -> str:
    """`gemm(K=128 M=1 N=128 dtype=float32)`."""
    values = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in sorted(args.items()))
    return f"{op}({' '.join(values)})"


def validate(operator: Operator, given: Args) -> Arguments:
    """Every declared argument, checked, with defaults filled in. Raises BadCase."""
    given = {operator.aliases.get(name, name): value for name, value in given.items() if name not in FORMAT_ARGUMENTS}
    known = [argument.name for argument in operator.arguments]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise BadCase(f"{operator.name} has no argument '{name}'; {hint}")
    args: Arguments = {}
    for argument in operator.arguments:
        args[argument.name] = _checked(operator, argument, given.get(argument.name, _default(argument, args)))
    impossible = operator.check(args)
    if impossible:
        raise BadCase(f"{operator.name}: {impossible}")
    return args


def _default(argument: Argument, args: Args) -> object:
    if not isinstance(argument.default, SameAs):
        return argument.default
    same = args[argument.default.argument]
    return same if same in argument.choices else argument.default.otherwise


def _checked(operator: Operator, argument: Argument, value: object) -> object:
    where = f"{operator.name}: {argument.name}"
    if value is REQUIRED:
        raise BadCase(f"{where} is missing ({argument.help})")
    match argument.kind:
        case "int":
            return _integer(where, argument, value)
        case "ints":
            if not isinstance(value, list | tuple):
                raise BadCase(f"{where}={value!r} is not a list of integers")
            return [_integer(where, argument, part) for part in value]
        case "dtype":
            name = canonical(value) if isinstance(value, str) else None
            if name is None or (argument.choices and name not in argument.choices):
                raise BadCase(f"{where}={value!r} is not one of {', '.join(argument.choices)}")
            return name
        case "choice":
            if value not in argument.choices:
                raise BadCase(f"{where}={value!r} is not one of {', '.join(argument.choices)}")
            return value
        case "bool":
            if not isinstance(value, bool | int) or value not in (0, 1):
                raise BadCase(f"{where}={value!r} is neither true nor false")
            return bool(value)
        case "float":
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                raise BadCase(f"{where}={value!r} is not a number")
            return float(value)
    return value


def _integer(where: str, argument: Argument, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadCase(f"{where}={value!r} is not an integer")
    if not argument.low <= value <= argument.high:
        raise BadCase(f"{where}={value} is out of range, {argument.low} to {argument.high}")
    return value
