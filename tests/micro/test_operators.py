"""Every operator of the table keeps the contract: real kernels, real references, small shapes."""

from __future__ import annotations

from typing import Any

import pytest

from micro.cases.case import BadCase, validate
from micro.cases.selection import basic_cases
from micro.measure.correctness import check_outputs
from micro.operators.contract import Maker, Operator, Sample, Tolerance
from micro.registry import OPERATORS

torch = pytest.importorskip("torch")

SMALL = {"M": 33, "K": 65, "N": 17, "batch_size": 3, "dim_size": 37, "height": 9, "width": 7, "channels": 5}
SMALL |= {"num_tokens": 48, "hidden_size": 64, "new_hidden_size": 48, "q_len": 40, "cache_len": 70, "size": 4099}


def cases() -> list[Any]:
    """Each operator's basic cases, made small where that keeps them possible."""
    found = {}
    for operator in OPERATORS.values():
        if operator.runner != "worker":
            continue
        assert basic_cases(operator.name), f"{operator.name} has no case in the basic suite"
        for args in basic_cases(operator.name):
            small = {name: min(value, SMALL[name]) if name in SMALL else value for name, value in args.items()}
            checked = validate(operator, small)
            found[operator.name, repr(checked)] = pytest.param(operator, checked, id=f"{operator.name}-{len(found)}")
    return list(found.values())


@pytest.mark.parametrize(("operator", "args"), cases())
def test_the_plain_kernel_is_within_tolerance_and_the_reference_leaves_inputs_alone(operator: Operator, args: dict[str, Any]) -> None:
    inputs = operator.inputs(args, Maker(1, "cpu"))
    again = operator.inputs(args, Maker(1, "cpu"))
    reference = operator.reference(args, inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, again, strict=True) if isinstance(a, torch.Tensor)), "seeded, unchanged"
    assert all(bool(part.bool().any()) for part in inputs if isinstance(part, torch.Tensor) and part.numel() > 1), "never zeros"
    copies = tuple(part.clone() if isinstance(part, torch.Tensor) else part for part in inputs)
    outputs = operator.kernel(args)(*copies)
    assert check_outputs(operator, args, inputs, outputs, reference).fault == ""
    cost = operator.cost(args)
    assert cost.flops >= 0
    assert cost.read_bytes > 0
    held = sum(part.numel() * part.element_size() for part in inputs if isinstance(part, torch.Tensor))
    assert cost.read_bytes <= held * 1.001 + 64, "reads no more than the inputs hold"


@pytest.mark.parametrize(("operator", "args"), cases())
def test_a_result_that_is_a_little_wrong_is_found(operator: Operator, args: dict[str, Any]) -> None:
    """One value, 3 % everywhere, or one term of each input left out."""
    inputs = operator.inputs(args, Maker(1, "cpu"))
    reference = operator.reference(args, inputs)
    outputs = operator.kernel(args)(*copied(inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wrong = {"a value": (one_value_off(outputs[0]), *outputs[1:])}
    for place, output in enumerate(outputs):
        scaled = (output.double() * 1.03).to(output.dtype) if output.dtype.is_floating_point else (output * 1.03).to(output.dtype)
        if operator.name == "store_kv_cache":  # of a whole cache, also what must not change
            scaled = torch.where(scaled.float().abs() > 1, scaled.float(), output.float()).to(output.dtype)
        if not torch.equal(scaled.double(), output.double()):  # small integers
            wrong[f"3 % in output {place}"] = (*outputs[:place], scaled, *outputs[place + 1 :])
    for place, part in enumerate(inputs):
        if part.element_size() > 4 or part.dtype == torch.int32 or (operator.name.startswith("stream_") and not place and len(inputs) > 1):
            continue  # indices, float64, and what is only written
        lacking = part.clone()
        lacking.view(torch.int8 if part.element_size() == 1 else part.dtype)[..., -1:] = 0
        if not torch.equal(lacking.double(), part.double()):
            found = operator.kernel(args)(*copied((*inputs[:place], lacking, *inputs[place + 1 :])))
            found = found if isinstance(found, tuple) else (found,)
            if not all(torch.equal(in_order(one), in_order(two)) for one, two in zip(found, outputs, strict=True)):
                wrong[f"last term of input {place}"] = found  # it counts: a maximum may lie elsewhere
    for what, result in wrong.items():
        fault = check_outputs(operator, args, inputs, result if len(outputs) > 1 else result[0], reference).fault
        assert fault, what


@pytest.mark.parametrize(("name", "args"), [("reduce_max", {}), ("reduce_min", {}), ("topk", {"k": 4})])
@pytest.mark.parametrize("column", [0, 1, -2, -1])
def test_no_column_of_an_extreme_can_be_left_out(name: str, args: dict[str, Any], column: int) -> None:
    operator = OPERATORS[name]
    args = validate(operator, {"batch_size": 4, "dim_size": 512, "dtype": "bfloat16", **args})
    inputs = operator.inputs(args, Maker(1, "cpu"))
    lacking = inputs[0].clone()
    lacking[:, column] = 0
    assert not check_outputs(operator, args, inputs, operator.kernel(args)(*inputs), operator.reference(args, inputs)).fault
    assert check_outputs(operator, args, inputs, operator.kernel(args)(lacking), operator.reference(args, inputs)).fault


def copied(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part.clone() if isinstance(part, torch.Tensor) else part for part in inputs)


def in_order(output: Any) -> Any:
    return output.double().flatten().sort().values


def one_value_off(output: Any) -> Any:
    spoilt = output.double()
    flat = spoilt.view(-1)
    step = max(1.0, float(spoilt.abs().max()))
    flat[0] += step if flat[0] <= 0 else -step  # stays in the range of small integers
    return spoilt.to(output.dtype)


def test_gemm_cost_and_sampled_reference() -> None:
    gemm = OPERATORS["gemm"]
    cost = gemm.cost({"M": 2, "K": 3, "N": 5, "dtype": "bfloat16"})
    assert (cost.flops, cost.read_bytes, cost.write_bytes) == (60, 42, 20)
    args = {"M": 4096, "K": 1024, "N": 1024, "dtype": "float32"}
    inputs = gemm.inputs(args, Maker(0, "cpu"))
    reference = gemm.reference(args, inputs)
    assert isinstance(reference, Sample)
    assert check_outputs(gemm, args, inputs, inputs[0] @ inputs[1], reference).fault == ""


def test_nan_and_a_wrong_shape_are_faults() -> None:
    from micro.measure.correctness import compare

    exact = Tolerance(0, 0)
    nan = torch.tensor([1.0, float("nan")])
    assert compare(nan, nan, exact).fault == ""
    assert compare(nan, torch.tensor([1.0, 2.0]), exact).fault.startswith("1 of 2 values are wrong")
    assert compare(torch.ones(2), nan, exact).fault
    assert compare(torch.ones(2), torch.ones(3), exact).fault == "shape [2] instead of [3]"


@pytest.mark.parametrize(
    ("op", "given", "sentence"),
    [
        ("gemm", {"M": 1, "K": 1}, "N is missing"),
        ("gemm", {"M": 1, "K": 1, "N": 0}, "N=0 is out of range"),
        ("gemm", {"M": 1, "K": 1, "N": "x"}, "N='x' is not an integer"),
        ("gemm", {"M": 1, "K": 1, "N": 1, "dtyp": "float32"}, "did you mean dtype"),
        ("gemm", {"M": 1, "K": 1, "N": 1, "dtype": "float33"}, "is not one of float32"),
        (
            "conv2d",
            {"batch_size": 1, "in_channels": 4, "out_channels": 6, "height": 4, "width": 4, "groups": 4},
            "groups=4 does not divide",
        ),
        ("conv2d", {"batch_size": 1, "in_channels": 1, "out_channels": 1, "height": 2, "width": 4}, "larger than the padded image"),
    ],
)
def test_bad_arguments_are_one_sentence(op: str, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadCase, match=sentence):
        validate(OPERATORS[op], given)


def test_aliases_of_dtypes_are_one_case() -> None:
    given = {"M": 1, "K": 1, "N": 1, "arg_type": "default"}
    assert validate(OPERATORS["gemm"], {**given, "dtype": "bf16"}) == validate(OPERATORS["gemm"], {**given, "dtype": "bfloat16"})
