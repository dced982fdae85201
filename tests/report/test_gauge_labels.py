"""What a gauge is called on a page."""

from __future__ import annotations

import numpy
import pytest

from bytemlperf_llm.pages.gauges import GaugeLine


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("running", "running in the engine"),
        ("decode_running", "decode running in the engine"),
        ("gpu_power_w", "GPU power, W"),
        ("cpu_busy_share", "CPU busy"),
        ("output_tokens_per_s", "output tokens/s"),
        ("prefill_1_prompt_tokens_per_s", "prefill 1 prompt tokens/s"),
        ("finished", "finished"),
    ],
)
def test_a_gauge_is_named_after_its_role_and_with_its_unit(name, label):
    assert GaugeLine(name, numpy.zeros(1), numpy.zeros(1)).label == label
