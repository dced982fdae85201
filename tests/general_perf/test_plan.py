"""The plan: everything that can be told wrong is told before the first process starts."""

from __future__ import annotations

import pytest

from bytemlperf_llm.errors import UserError
from general_perf.plan import Flags, plan


def flags(**changes) -> Flags:
    return Flags(**{"models": ["bert"], "backends": ["onnxruntime"], "precisions": ["fp32"], **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": []}, "no model was named"),
        ({"models": ["brt"]}, "model 'brt' is unknown; did you mean 'bert'"),
        ({"backends": ["openvin"]}, "did you mean 'openvino'"),
        ({"precisions": ["fp8"]}, "precision 'fp8' is unknown; valid: bf16, fp16, fp32, int8"),
        ({"size": "smal"}, "no size 'smal'; did you mean 'small'"),
        ({"dims": {"sequense": 4}}, "no dimension 'sequense'; did you mean 'sequence'"),
        ({"batch_sizes": [4, 0]}, "--batch-size 0 is below 1"),
        ({"instances": (0,)}, "--instances 0 is below 1"),
        ({"loops": ("opened",)}, "loop 'opened' is unknown; did you mean 'open'"),
        ({"loops": ("open",)}, "an open loop alone has no rate; give --request-rate"),
        ({"stages": ("speed",)}, "stage 'speed' is unknown"),
        ({"process": "uniform"}, "arrival process 'uniform' is unknown"),
        ({"seconds": 0.0}, "--seconds 0.0 is not above 0"),
        ({"request_rate": float("nan")}, "--request-rate nan is not above 0"),
        ({"rate_share": -1.0}, "--rate-share -1.0 is not above 0"),
        ({"burstiness": 0.0}, "--burstiness 0.0 is not above 0"),
        ({"memory_limit_gib": -1.0}, "--memory-limit-gib -1.0"),
        ({"calibration_samples": -1}, "--calibration-samples is below 0"),
        ({"models": ["all"], "weights": "x.onnx"}, "--weights goes with one model"),
        ({"models": ["none.yaml"]}, "none.yaml can't be read"),
    ],
)
def test_bad_flags_are_one_sentence_with_the_mend(changes, said):
    with pytest.raises(UserError) as raised:
        plan(flags(**changes))
    assert said in str(raised.value)


def test_jobs_are_models_by_backends_by_precisions():
    jobs = plan(flags(models=["bert", "magika"], backends=["openvino", "onnxruntime"], precisions=["fp32", "int8"]))
    assert [job.id for job in jobs] == [
        f"{model}/{backend}/{precision}"
        for model in ("bert", "magika")
        for backend in ("openvino", "onnxruntime")
        for precision in ("fp32", "int8")
    ]


def test_a_size_goes_where_the_card_has_it():
    jobs = {job.id.split("/")[0]: job for job in plan(flags(models=["all"], size="small"))}
    assert len(jobs) == len(plan(flags(models=["all"])))
    assert jobs["bert@small"].card["dims"] == {"sequence": 32}
    assert jobs["magika"].size == "published"


def test_a_fixed_batch_is_taken_as_it_is():
    (job,) = plan(flags(models=["silero-vad"]))
    assert job.batch_sizes == (1,)


def test_a_slow_models_data_is_cut():
    (job,) = plan(flags(models=["smollm2-prefill"]))
    assert job.accuracy_samples == 24
    (job,) = plan(flags(models=["smollm2-prefill"], accuracy_samples=5))
    assert job.accuracy_samples == 5
