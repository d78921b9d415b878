"""Proper scores, temperatures and coverage: hand-computed cases and properties."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from vitrine.calibration import (
    TEMPERATURE_RANGE,
    brier,
    coverage_curve,
    expected_calibration_error,
    fit_temperature,
    nll,
    reliability,
    sharpen,
    sure_threshold,
)
from vitrine.labels import MISSING

PROBS = np.array([[0.5, 0.5], [0.8, 0.2], [0.1, 0.9]])
CODES = np.array([0, 1, 1])


def test_scores_by_hand() -> None:
    assert nll(CODES, PROBS) == pytest.approx(-np.log([0.5, 0.2, 0.9]).mean())
    assert nll(CODES, PROBS) == pytest.approx(log_loss(CODES, PROBS))
    assert brier(CODES, PROBS) == pytest.approx((2 * 0.25 + 2 * 0.64 + 2 * 0.01) / 3)
    assert np.isnan(nll(np.array([MISSING]), PROBS[:1])) and np.isnan(brier(np.array([MISSING]), PROBS[:1]))


def test_the_unlabelled_do_not_count() -> None:
    codes, probs = np.append(CODES, MISSING), np.vstack([PROBS, [0.3, 0.7]])
    assert nll(codes, probs) == nll(CODES, PROBS)
    assert brier(codes, probs) == brier(CODES, PROBS)
    assert reliability(codes, probs, 2).equals(reliability(CODES, PROBS, 2))
    assert coverage_curve(codes, probs).equals(coverage_curve(CODES, PROBS))


@given(st.floats(0.3, 6.0), st.integers(0, 20))
def test_sharpening_keeps_order_and_sums(temperature: float, seed: int) -> None:
    probs = softmax(np.random.default_rng(seed).normal(size=(5, 4)), axis=1)
    changed = sharpen(probs, temperature)
    np.testing.assert_allclose(changed.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(changed.argmax(axis=1), probs.argmax(axis=1))
    np.testing.assert_allclose(sharpen(probs, 1.0), probs, rtol=1e-5)
    np.testing.assert_allclose(changed, softmax(np.log(probs) / temperature, axis=1), rtol=1e-4)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_spoilt_probabilities_is_found(true_temperature: float) -> None:
    rng = np.random.default_rng(0)
    honest = softmax(rng.normal(scale=2, size=(6000, 5)), axis=1)
    codes = np.array([rng.choice(5, p=row) for row in honest])
    spoilt = sharpen(honest, 1 / true_temperature)
    assert fit_temperature(codes, spoilt) == pytest.approx(true_temperature, rel=0.08)
    assert nll(codes, sharpen(spoilt, fit_temperature(codes, spoilt))) <= nll(codes, spoilt) + 1e-9


def test_the_temperature_has_bounds_and_needs_labels() -> None:
    sure = np.tile([0.9, 0.1], (20, 1))
    assert fit_temperature(np.zeros(20, dtype=np.int64), sure) == pytest.approx(TEMPERATURE_RANGE[0], rel=0.01)
    assert fit_temperature(np.ones(20, dtype=np.int64), sure) == pytest.approx(TEMPERATURE_RANGE[1], rel=0.01)
    assert fit_temperature(np.full(20, MISSING), sure) == 1.0


def test_reliability_has_bins_of_equal_numbers() -> None:
    probs = np.array([[0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.9, 0.1]])
    bins = reliability(np.array([1, 0, 0, 0]), probs, 2)
    assert bins["n"].tolist() == [2, 2]
    assert bins["confidence"].tolist() == pytest.approx([0.65, 0.85])
    assert bins["accuracy"].tolist() == [0.5, 1.0]
    assert expected_calibration_error(bins) == pytest.approx((0.15 * 2 + 0.15 * 2) / 4)
    assert len(reliability(np.array([0]), probs[:1], 10)) == 1


def test_coverage_answers_the_surest_first_and_equals_together() -> None:
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.7, 0.3]])
    curve = coverage_curve(np.array([0, 1, 0, 0]), probs)
    assert curve["coverage"].tolist() == [0.25, 0.5, 1.0]
    assert curve["accuracy"].tolist() == [1.0, 1.0, 0.75]
    assert sure_threshold(curve, 0.9) == pytest.approx(0.7)
    assert sure_threshold(curve, 0.7) == pytest.approx(0.6)
    assert sure_threshold(curve[curve["accuracy"] < 0.9], 0.9) == 1.0


def test_bins_count_by_their_photographs() -> None:
    bins = pd.DataFrame({"confidence": [0.5, 0.9], "accuracy": [0.25, 1.0], "n": [3, 1]})
    assert expected_calibration_error(bins) == pytest.approx((3 * 0.25 + 0.1) / 4)
