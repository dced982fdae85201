"""What the dataset flags mean, and the lines that bad ones get."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve
from bytemlperf_llm.plan.scenario import BUILTIN_FOLDER, Scenario
from bytemlperf_llm.run import preflight
from engines.contract import Api, EngineInfo, Model
from tests.workload.tokenizers import byte_tokenizer


def scenario_of(**flags: object) -> Scenario:
    return resolve(Flags(engine="reference", **flags)).load.scenario  # type: ignore[arg-type]


def trace_of(**flags: object):
    trace = scenario_of(**flags).prompts.trace
    assert trace is not None
    return trace


def test_a_trace_with_times_rules_the_arrivals_and_the_end_of_the_run():
    scenario = scenario_of(dataset_name="azure")
    assert (scenario.arrival.process, scenario.arrival.rate) == ("trace", None)
    assert (scenario.num_requests, scenario.duration_s) == (None, None)
    assert scenario.name == "chat-azure"


def test_a_rate_goes_before_the_traces_times():
    assert scenario_of(dataset_name="azure", request_rate="3").arrival.process == "poisson"
    assert scenario_of(scenario="smoke", dataset_name="azure", request_rate="3").arrival.process == "constant"
    assert scenario_of(dataset_name="azure", request_rate="inf").arrival.process == "at_once"
    gamma = scenario_of(dataset_name="azure", request_rate="3", burstiness=0.5).arrival
    assert (gamma.process, gamma.rate, gamma.burstiness) == ("gamma", 3.0, 0.5)
    assert scenario_of(scenario="trace-mooncake", request_rate="3").arrival.process == "poisson"
    ramp = {"ramp_up_strategy": "linear", "ramp_up_start_rps": 1.0, "ramp_up_end_rps": 2.0}
    assert scenario_of(dataset_name="azure", num_prompts=9, **ramp).arrival.process == "poisson"


def test_a_cap_beside_a_trace_is_a_cap():
    arrival = scenario_of(dataset_name="mooncake", max_concurrency=3).arrival
    assert (arrival.process, arrival.max_concurrency) == ("trace", 3)


LOADS = [
    ("chat", {"max_concurrency": 10}, "closed loop, 10 in flight"),
    ("chat", {"max_concurrency": 10, "request_rate": "auto"}, "Poisson, rate auto, at most 10 in flight"),
    ("smoke", {"max_concurrency": 10}, "constant gaps, 1 req/s, at most 10 in flight"),
    ("smoke", {"max_concurrency": 10, "request_rate": "1234567e-3"}, "constant gaps, 1,235 req/s, at most 10 in flight"),
    ("chat", {"max_concurrency": 10, "request_rate": "inf", "num_prompts": 5}, "all at once, at most 10 in flight"),
    ("chat", {"request_rate": "2", "burstiness": 0.5}, "gamma gaps of burstiness 0.5, 2 req/s"),
    ("chat", {"request_rate": "2", "burstiness": float("inf")}, "constant gaps, 2 req/s"),
    ("trace-azure", {"max_concurrency": 10}, "at the trace's own times, at most 10 in flight"),
    ("poisson, rate: 1.91", {"max_concurrency": 10}, "Poisson, 1.91 req/s, at most 10 in flight"),
    ("poisson, rate: auto, max_concurrency: 4", {"max_concurrency": 10}, "Poisson, rate auto, at most 10 in flight"),
    ("closed, max_concurrency: 4", {"max_concurrency": 10}, "closed loop, 10 in flight"),
    ("at_once", {"max_concurrency": 10}, "all at once, at most 10 in flight"),
    (
        "poisson, ramp: {strategy: linear, start_rate: 1, end_rate: 20}",
        {"max_concurrency": 10},
        "Poisson, linear ramp from 1 to 20 req/s, at most 10 in flight",
    ),
]


@pytest.mark.parametrize(("scenario", "flags", "said"), LOADS)
def test_a_cap_stays_a_cap_and_the_load_is_said(tmp_path, scenario, flags, said):
    if ":" in scenario or scenario == "at_once":
        text = (BUILTIN_FOLDER / "smoke.yaml").read_text().replace("process: constant, rate: 1", f"process: {scenario}")
        scenario = str(tmp_path / "own.yaml")
        Path(scenario).write_text(text.replace("[prompts/", f"[{BUILTIN_FOLDER}/prompts/") + "num_requests: 9\n")
    assert scenario_of(scenario=scenario, **flags).arrival.sentence() == said


def test_goodput_names_all_service_levels_as_in_vllm():
    assert msgspec.to_builtins(scenario_of(scenario="smoke", goodput=("ttft:500",)).slo) == {
        "ttft_ms": 500.0,
        "tpot_ms": None,
        "e2e_ms": None,
        "session_ms": None,
    }


def test_bounds_of_the_run_stay_flags_of_their_own():
    assert scenario_of(dataset_name="azure", num_prompts=5).num_requests == 5
    assert scenario_of(dataset_name="azure", duration_s=5.0).duration_s == 5.0


def test_prompts_without_times_keep_the_scenarios_arrivals(tmp_path):
    scenario = scenario_of(scenario="smoke", dataset_name="custom", dataset_path=tmp_path / "x")
    assert (scenario.arrival.process, scenario.duration_s) == ("constant", 20.0)


def test_options_reach_the_trace_of_a_flag_and_of_a_scenario(tmp_path):
    options = {
        "time_scale": 0.5,
        "trace_window": "10:20.5",
        "trace_block_size": 64,
        "max_model_len": 4096,
        "on_too_long": "truncate",
        "output_len": 9,
    }
    for flags in ({"dataset_name": "mooncake"}, {"scenario": "trace-mooncake"}):
        trace = trace_of(**flags, **options)
        assert (trace.time_scale, trace.window_s, trace.block_tokens) == (0.5, (10.0, 20.5), 64)
        assert (trace.max_model_len, trace.on_too_long, trace.own_output_tokens) == (4096, "truncate", False)
    timed = trace_of(dataset_name="timed_trace", dataset_path=tmp_path, timed_trace_sec_multiplier=0.001)
    assert timed.timestamp_unit_s == 0.001


def test_windows_may_be_open_on_either_side():
    assert trace_of(dataset_name="azure", trace_window=":30").window_s == (0.0, 30.0)
    assert trace_of(dataset_name="azure", trace_window="30:").window_s == (30.0, None)


def test_made_up_prompts_of_a_length():
    synthetic = scenario_of(input_len=100, random_prefix_len=30, output_len=5).prompts.synthetic
    assert synthetic is not None
    assert synthetic.tokens is not None
    assert (synthetic.tokens.value, synthetic.prefix_tokens) == (100, 30)


BAD = [
    ({"dataset_name": "moncake"}, "--dataset-name 'moncake' is unknown; did you mean 'mooncake'"),
    ({"dataset_path": "x"}, "--dataset-path alone doesn't say what the file is; add --dataset-name"),
    ({"dataset_name": "burstgpt"}, "--dataset-name burstgpt needs the file; add --dataset-path"),
    ({"time_scale": 2.0}, "--time-scale is for traces, and scenario 'chat' has none"),
    ({"max_model_len": 2}, "--max-model-len is for traces, and scenario 'chat' has none"),
    ({"dataset_name": "azure", "time_scale": 0.0}, "--time-scale 0 is not above 0; give a number above 0"),
    ({"dataset_name": "azure", "trace_window": "5"}, "--trace-window '5' is not a window; give START:END"),
    ({"dataset_name": "azure", "trace_window": "a:b"}, "--trace-window 'a:b' is not a window"),
    ({"dataset_name": "azure", "trace_window": "9:3"}, "window_s starts at 9 and ends at 3"),
    ({"dataset_name": "azure", "trace_window": "nan:3"}, "window_s"),
    ({"dataset_name": "azure", "on_too_long": "cut"}, "on_too_long can't be 'cut'"),
    ({"dataset_name": "azure", "timed_trace_sec_multiplier": 2.0}, "format azure says itself what its times are"),
    ({"dataset_name": "custom", "dataset_path": "x", "trace_window": "0:3"}, "has no times, so window_s means nothing"),
    ({"dataset_name": "azure", "burstiness": 0.5}, "--burstiness needs a rate"),
    ({"input_len": 5, "dataset_name": "azure"}, "--input-len makes up prompts, and a trace has its own"),
    ({"input_len": 5, "scenario": "trace-azure"}, "--input-len makes up prompts, and a trace has its own"),
    ({"random_prefix_len": 5}, "--random-prefix-len needs the length of what follows; add --input-len"),
    ({"input_len": 0}, "--input-len 0 is below 1; give 1 or more"),
    ({"random_prefix_len": -1, "input_len": 5}, "--random-prefix-len -1 is below 0"),
    ({"tokenizer": "./no/such/folder", "input_len": 5}, "model folder './no/such/folder' does not exist"),
]


@pytest.mark.parametrize(("flags", "said"), BAD)
def test_bad_flags_get_one_line(tmp_path, flags, said):
    if "dataset_path" in flags:
        flags = flags | {"dataset_path": tmp_path / "x"}
    with pytest.raises(UserError) as caught:
        scenario_of(**flags)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def fitted(model: Model | None = None, info: EngineInfo | None = None, **flags: object) -> Plan:
    flags = {"engine": "reference", "dataset_name": "azure"} | flags
    return preflight.fit_prompts(resolve(Flags(**flags)), model, info or EngineInfo(name="x"))  # type: ignore[arg-type]


def test_the_models_tokenizer_and_context_are_taken(tmp_path):
    folder = byte_tokenizer(tmp_path)
    model = Model(name="m", path=folder, max_model_len=2048)
    prompts = fitted(model).load.scenario.prompts
    assert prompts.trace is not None
    assert (prompts.tokenizer, prompts.template, prompts.trace.max_model_len) == (folder, "chat", 2048)
    served = fitted(None, EngineInfo(name="x", tokenizer=folder, max_model_len=512)).load.scenario.prompts
    assert served.trace is not None
    assert (served.tokenizer, served.trace.max_model_len) == (folder, 512)


def test_what_the_user_gave_goes_before_and_the_shorter_context_holds(tmp_path):
    folder = byte_tokenizer(tmp_path / "mine")
    model = Model(name="m", path=byte_tokenizer(tmp_path / "model"), max_model_len=2048)
    for given, holds in ((100, 100), (4096, 2048)):
        prompts = fitted(model, tokenizer=folder, max_model_len=given).load.scenario.prompts
        assert prompts.trace is not None
        assert (prompts.tokenizer, prompts.trace.max_model_len) == (folder, holds)


def test_without_a_tokenizer_none_is_claimed(tmp_path):
    (tmp_path / "tokenizer.model").touch()
    assert fitted(Model(name="m", path=str(tmp_path))).load.scenario.prompts.tokenizer is None
    assert fitted(info=EngineInfo(name="x", tokenizer="org/name")).load.scenario.prompts.tokenizer is None


def test_plain_completions_have_no_template():
    templates = {api: fitted(info=EngineInfo(name="x", api=api)).load.scenario.prompts.template for api in get_args(Api)}
    assert {api for api, template in templates.items() if template == "chat"} == {"chat", "responses"}


def test_what_becomes_of_prompts_is_the_endpoints_and_may_change_again():
    embeddings = preflight.fit_prompts(resolve(Flags(engine="openai")), None, EngineInfo(name="x", api="embeddings"))
    assert (embeddings.load.scenario.prompts.task, embeddings.load.scenario.prompts.template) == ("embed", "plain")
    assert preflight.fit_prompts(embeddings, None, EngineInfo(name="x")).load.scenario.prompts.task == "generate"


@pytest.mark.parametrize(
    ("flags", "api", "said"),
    [
        ({"tokenize_prompt": True, "input_len": 9}, "chat", "--tokenize-prompt"),
        ({"tokenize_prompt": True, "input_len": 9}, "rerank", "--tokenize-prompt"),
        ({"batch_size": 2}, "completions", "--batch-size"),
        ({"goodput": ("ttft:5",)}, "embeddings", "e2el"),
        ({"until": "ttft p50 ±5%"}, "rerank", "e2el"),
        ({"scenario": "chat-multiturn"}, "embeddings", "--input-len"),
    ],
)
def test_what_an_endpoint_can_not_be_asked_is_said(flags, api, said):
    with pytest.raises(UserError) as caught:
        preflight.fit_prompts(resolve(Flags(engine="openai", **flags)), None, EngineInfo(name="x", api=api))
    assert said in caught.value.fix


def test_a_scenario_with_texts_of_its_own_is_left_alone():
    plan = resolve(Flags(engine="reference"))
    assert preflight.fit_prompts(plan, Model(name="m", max_model_len=5), EngineInfo(name="x")) is plan


def test_the_tokenizer_is_of_every_class_with_prompts_of_its_own(tmp_path):
    folder = byte_tokenizer(tmp_path)
    plan = resolve(Flags(engine="reference", scenario="mixed"))
    counted = plan.with_scenario(
        {"classes.background.prompts": {"trace": {"format": "azure", "file": "traces/azure-code-2023-excerpt.csv"}}}
    )
    fitted = preflight.fit_prompts(counted, Model(name="m", path=folder, max_model_len=2048), EngineInfo(name="x")).load.scenario
    prompts = fitted.classes["background"].prompts
    assert prompts is not None
    assert prompts.trace is not None
    assert (prompts.tokenizer, prompts.trace.max_model_len, fitted.prompts.tokenizer) == (folder, 2048, folder)
