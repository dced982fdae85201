"""The plan: everything that can be told wrong is told before the first process starts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bytemlperf.command.flags import sizes
from bytemlperf.errors import UserError
from general_perf.backends.registry import check_options
from general_perf.command.flags import Flags
from general_perf.command.plan import plan
from general_perf.command.run import _planned


def flags(**changes) -> Flags:
    return Flags(**{"models": ("bert",), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": ()}, "no model was named"),
        ({"models": ("brt",)}, "model 'brt' is unknown; did you mean 'bert'"),
        ({"backends": ("openvin",)}, "did you mean 'openvino'"),
        ({"precisions": ("fp8",)}, "--precision 'fp8' is unknown; valid: bf16, fp16, fp32, int8"),
        ({"size": "smal"}, "no size 'smal'; did you mean 'small'"),
        ({"dims": {"sequense": 4}}, "no dimension 'sequense'; did you mean 'sequence'"),
        ({"batch_sizes": (4, 0)}, "--batch-size 0 is below 1"),
        ({"instances": (0,)}, "--instances 0 is below 1"),
        ({"loops": ("opened",)}, "--loop 'opened' is unknown; did you mean 'open'"),
        ({"loops": ("open",)}, "an open loop alone has no rate; give --request-rate"),
        ({"stages": ("speed",)}, "--stage 'speed' is unknown"),
        ({"process": "uniform"}, "--arrivals 'uniform' is unknown"),
        ({"seconds": 0.0}, "--seconds 0 is not above 0"),
        ({"request_rate": float("nan")}, "--request-rate nan is not above 0"),
        ({"rate_share": -1.0}, "--rate-share -1 is not above 0"),
        ({"burstiness": 0.0}, "--burstiness 0 is not above 0"),
        ({"memory_limit": "-1"}, "--memory-limit '-1' is not a size"),
        ({"calibration_samples": -1}, "--calibration-samples -1 is below 0"),
        ({"seed": -1}, "--seed -1 is below 0; give a number from 0 to"),
        ({"seconds": float("inf")}, "--seconds inf is too large; give a number up to 86400"),
        ({"request_rate": float("inf")}, "--request-rate inf is too large"),
        ({"request_rate": 1e6, "seconds": 20.0}, "--request-rate 1e+06 for --seconds 20 are more than 10,000,000 calls"),
        ({"rate_share": 1e300}, "--rate-share 1e+300 is too large"),
        ({"time_limit_s": float("inf")}, "--time-limit inf is too large"),
        ({"memory_limit": "1e300"}, "--memory-limit '1e300' is not a size"),
        ({"iterations": 10**20}, "--iterations 100000000000000000000 is too large; give a number from 1 to 10000000"),
        ({"instances": (1, 10**20)}, "--instances 100000000000000000000 is too large"),
        ({"threads": 10**400}, "is too large"),
        ({"models": ("all",), "weights": Path("x.onnx")}, "--weights goes with one model"),
        ({"models": ("none.yaml",)}, "none.yaml can't be read"),
        ({"random_weights": True}, "--random-weights goes with a ByteMLPerf workload"),
        ({"backend_options": {"opsett": "17"}}, "--backend-option opsett is unknown to onnxruntime; did you mean 'opset'"),
        ({"backend_options": {"int8": "dynamic"}}, "--backend-option int8 is unknown to onnxruntime"),
        ({"backend_options": {"dynamic": "maybe"}}, "--backend-option dynamic=maybe is unknown; valid: false, true"),
        ({"backends": ("torch-inductor",), "backend_options": {"mode": "max"}}, "--backend-option mode=max is unknown"),
    ],
)
def test_bad_flags_are_one_sentence_with_the_mend(changes, said):
    with pytest.raises(UserError) as raised:
        plan(flags(**changes))
    assert said in str(raised.value)


@pytest.mark.parametrize("size", ["abc", "0", "-4", "1.5", "", "²", "1" * 5000, str(1 << 31)])
def test_a_dim_that_is_no_size_is_named(size):
    with pytest.raises(UserError, match="the size is not a number from 1 to 2147483647; write --dim sequence=64"):
        sizes("--dim", [f"sequence={size}"])


def test_jobs_are_models_by_backends_by_precisions():
    jobs = plan(
        flags(
            models=(
                "bert",
                "magika",
            ),
            backends=(
                "openvino",
                "onnxruntime",
            ),
            precisions=(
                "fp32",
                "int8",
            ),
        )
    )
    assert [job.id for job in jobs] == [
        f"{model}/{backend}/{precision}"
        for model in ("bert", "magika")
        for backend in ("openvino", "onnxruntime")
        for precision in ("fp32", "int8")
    ]


def test_an_option_of_one_backend_may_stand_beside_another_and_a_vendors_are_its_own():
    plan(
        flags(
            backends=(
                "onnxruntime",
                "torch-eager",
            ),
            backend_options={"int8": "dynamic", "opset": "17"},
        )
    )
    check_options(["onnxruntime", "somebody"], {"their": "own"})


def test_a_model_that_is_named_twice_is_one():
    jobs = plan(
        flags(
            models=(
                "bert",
                "regular",
                "bert",
            )
        )
    )
    assert [job.id.split("/")[0] for job in jobs].count("bert") == 1
    assert len(jobs) == len(plan(flags(models=("regular",))))


def test_weights_are_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (job,) = plan(flags(weights=Path("x.onnx")))
    assert job.weights == str(tmp_path / "x.onnx")


def test_a_size_goes_where_the_card_has_it():
    jobs = {job.id.split("/")[0]: job for job in plan(flags(models=("all",), size="small"))}
    assert len(jobs) == len(plan(flags(models=("all",))))
    assert jobs["bert@small"].card.dims == {"sequence": 32}
    assert jobs["magika"].size == "published"


def test_a_fixed_batch_is_taken_as_it_is():
    (job,) = plan(flags(models=("silero-vad",)))
    assert job.batch_sizes == (1,)


def test_a_slow_models_data_is_cut():
    (job,) = plan(flags(models=("smollm2-prefill",)))
    assert job.accuracy_samples == 24
    (job,) = plan(flags(models=("smollm2-prefill",), accuracy_samples=5))
    assert job.accuracy_samples == 5


def test_a_strangers_plan_whose_card_names_a_function_is_not_resumed():
    (job,) = plan(Flags(models=("bert",), backends=("torch-eager",), precisions=("fp32",)))
    config = {"plan": [msgspec.to_builtins(job)], "time_limit_s": 1.0, "keep_artefacts": False}
    assert _planned({"config": config})[0][0].id == job.id
    config["plan"][0]["card"]["source"]["model"] = "utils.hub.cached_file"
    with pytest.raises(UserError, match="its plan is of another version"):
        _planned({"config": config})
