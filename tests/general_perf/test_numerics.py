"""Numerics: exact on small arrays, and nothing that isn't finite goes unseen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from general_perf.card import Tolerance
from general_perf.measure.numerics import compare, decide, verdict

TIGHT = Tolerance(scaled_max=1e-6, cosine=0.999999)


def test_differences_are_those_of_the_definition():
    found = compare(np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0]), "none")
    assert found["abs"] == {"max": 2.0, "mean": 1.0, "std": pytest.approx(math.sqrt(2 / 3))}
    assert found["rel"]["max"] == 1.0
    assert found["reference_rms"] == pytest.approx(math.sqrt(2.0))
    assert found["scaled_max"] == pytest.approx(2.0 / math.sqrt(2.0))


def test_equal_outputs_pass_the_tightest_tolerance():
    values = np.linspace(-3, 3, 101)
    found = compare(values, values.copy(), "softmax")
    assert found["abs"]["max"] == 0.0
    assert found["kl"]["max"] == pytest.approx(0.0, abs=1e-12)
    assert verdict({"logits": found}, TIGHT)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_counted_and_fails(poison: float):
    reference = np.ones((2, 4))
    ours = reference.copy()
    ours[1, 2] = poison
    found = compare(ours, reference, "none")
    assert found["nonfinite"]["ours_nan"] + found["nonfinite"]["ours_inf"] == 1
    assert found["nonfinite"]["only_ours"] == 1
    assert found["abs"]["max"] == 0.0  # the finite places agree, and that saves nothing
    assert not verdict({"logits": found}, TIGHT)


def test_nan_where_the_reference_has_one_too_is_counted_and_no_difference():
    both = np.array([1.0, np.nan])
    found = compare(both, both.copy(), "none")
    assert found["nonfinite"]["ours_nan"] == found["nonfinite"]["reference_nan"] == 1
    assert verdict({"logits": found}, TIGHT)


def test_relative_differences_leave_out_zeros_of_the_reference_and_say_how_many():
    found = compare(np.array([0.5, 2.0]), np.array([0.0, 1.0]), "none")
    assert found["rel_left_out"] == 1
    assert found["rel"]["max"] == 1.0


def test_all_outputs_zeroed_fail():
    found = compare(np.zeros(8), np.arange(1.0, 9.0), "none")
    assert found["zeros"] == {"ours": 1.0, "reference": 0.0}
    assert found["cosine"] is None
    assert not verdict({"logits": found}, TIGHT)


def test_kl_of_known_distributions():
    reference, ours = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert compare(ours, reference, "softmax")["kl"]["mean"] == pytest.approx(expected)
    assert compare(np.exp(ours), np.exp(reference), "probabilities")["kl"]["mean"] == pytest.approx(expected)
    logit = math.log(0.9 / 0.1)
    assert compare(np.array([logit]), np.array([0.0]), "sigmoid")["kl"]["mean"] == pytest.approx(expected)


def test_histograms_share_their_bins_and_count_everything():
    found = compare(np.array([0.0, 0.0, 0.0, 9.0]), np.array([1.0, 2.0, 3.0, 9.0]), "none")["histogram"]
    assert sum(found["ours"]) == sum(found["reference"]) == 4
    assert found["ours"][0] == 3
    assert found["reference"][0] == 0
    assert found["edges"][0] == 0.0
    assert found["edges"][-1] == 9.0


def test_a_shape_that_differs_is_named():
    with pytest.raises(ValueError, match=r"\[2\].*\[3\]"):
        compare(np.zeros(2), np.zeros(3), "none")


def test_decisions():
    logits = np.array([[1.0, 3.0], [np.nan, -5.0]])
    assert decide(logits, "argmax", "softmax").tolist() == [1, 1]
    assert decide(np.array([0.4]), "threshold", "sigmoid").tolist() == [True]
    assert decide(np.array([0.4]), "threshold", "none").tolist() == [False]
    assert decide(logits, "none", "none") is None
