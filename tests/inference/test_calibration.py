"""Proper scores, temperatures and coverage: hand-computed cases and properties."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from vitrine.inference.calibration import (
    TEMPERATURE_RANGE,
    apply_temperature,
    binomial_tail,
    brier,
    confidence_threshold,
    coverage_curve,
    expected_calibration_error,
    fit_temperature,
    is_confident,
    nll,
    reliability,
)
from vitrine.labels import MISSING

PROBS = np.array([[0.5, 0.5], [0.8, 0.2], [0.1, 0.9]])
CODES = np.array([0, 1, 1])


def test_scores_by_hand() -> None:
    assert nll(CODES, PROBS) == pytest.approx(-np.log([0.5, 0.2, 0.9]).mean())
    assert nll(CODES, PROBS) == pytest.approx(log_loss(CODES, PROBS))
    assert brier(CODES, PROBS) == pytest.approx((2 * 0.25 + 2 * 0.64 + 2 * 0.01) / 3)
    assert np.isnan(nll(np.array([MISSING]), PROBS[:1])) and np.isnan(brier(np.array([MISSING]), PROBS[:1]))


def test_unlabeled_photographs_do_not_count() -> None:
    codes, probs = np.append(CODES, MISSING), np.vstack([PROBS, [0.3, 0.7]])
    assert nll(codes, probs) == nll(CODES, PROBS)
    assert brier(codes, probs) == brier(CODES, PROBS)
    assert reliability(codes, probs, 2).equals(reliability(CODES, PROBS, 2))
    assert coverage_curve(codes, probs).equals(coverage_curve(CODES, PROBS))


@given(st.floats(0.3, 6.0), st.integers(0, 20))
def test_a_temperature_keeps_order_and_sums(temperature: float, seed: int) -> None:
    probs = softmax(np.random.default_rng(seed).normal(size=(5, 4)), axis=1)
    changed = apply_temperature(probs, temperature)
    np.testing.assert_allclose(changed.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(changed.argmax(axis=1), probs.argmax(axis=1))
    np.testing.assert_allclose(apply_temperature(probs, 1.0), probs, rtol=1e-5)
    np.testing.assert_allclose(changed, softmax(np.log(probs) / temperature, axis=1), rtol=1e-4)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_undone_is_fitted(true_temperature: float) -> None:
    rng = np.random.default_rng(0)
    calibrated = softmax(rng.normal(scale=2, size=(6000, 5)), axis=1)
    codes = np.array([rng.choice(5, p=row) for row in calibrated])
    raw = apply_temperature(calibrated, 1 / true_temperature)
    assert fit_temperature(codes, raw) == pytest.approx(true_temperature, rel=0.08)
    assert nll(codes, apply_temperature(raw, fit_temperature(codes, raw))) <= nll(codes, raw) + 1e-9


def test_the_temperature_has_bounds_and_needs_labels() -> None:
    sure = np.tile([0.9, 0.1], (20, 1))
    assert fit_temperature(np.zeros(20, dtype=np.int64), sure) == pytest.approx(TEMPERATURE_RANGE[0], rel=0.01)
    assert fit_temperature(np.ones(20, dtype=np.int64), sure) == pytest.approx(TEMPERATURE_RANGE[1], rel=0.01)
    assert fit_temperature(np.full(20, MISSING), sure) == 1.0


def test_reliability_bins_have_equal_counts() -> None:
    probs = np.array([[0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.9, 0.1]])
    bins = reliability(np.array([1, 0, 0, 0]), probs, 2)
    assert bins["n"].tolist() == [2, 2]
    assert bins["confidence"].tolist() == pytest.approx([0.65, 0.85])
    assert bins["accuracy"].tolist() == [0.5, 1.0]
    assert expected_calibration_error(bins) == pytest.approx((0.15 * 2 + 0.15 * 2) / 4)
    assert len(reliability(np.array([0]), probs[:1], 10)) == 1


def test_coverage_starts_with_the_most_confident_and_keeps_ties_together() -> None:
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.7, 0.3]])
    curve = coverage_curve(np.array([0, 1, 0, 0]), probs)
    assert curve["coverage"].tolist() == [0.25, 0.5, 1.0]
    assert curve["accuracy"].tolist() == [1.0, 1.0, 0.75]


def predictions(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and probabilities of two labels with these confidences, right or wrong."""
    probs = np.stack([confidence, 1 - confidence], axis=1).astype(np.float32)
    return np.where(right, 0, 1), probs


def test_the_threshold_is_where_items_prove_enough_accuracy() -> None:
    # One photograph per item. If all n are right, they prove 0.8 accuracy at 5 % risk from n = 14: 0.8^14 = 0.044.
    confidence = np.linspace(0.99, 0.6, 20)
    codes, probs = predictions(confidence, np.ones(20, dtype=bool))
    assert confidence_threshold(codes, probs, np.arange(20), 0.8) == pytest.approx(0.6)
    assert confidence_threshold(codes[:14], probs[:14], np.arange(14), 0.8) == pytest.approx(confidence[13])
    assert confidence_threshold(codes[:13], probs[:13], np.arange(13), 0.8) is None
    # 20 items cannot prove 0.9: even 20 of 20 happen in 12 % of the cases.
    assert confidence_threshold(codes, probs, np.arange(20), 0.9) is None
    # The two least confident of 20 are wrong: 18 of 18 right are enough, 18 of 19 are not.
    codes, probs = predictions(confidence, np.arange(20) < 18)
    assert confidence_threshold(codes, probs, np.arange(20), 0.8) == pytest.approx(confidence[17])
    # The most confident is wrong: 13 of 14 are not enough, and the search stops at its first failure.
    codes, probs = predictions(confidence, np.arange(20) > 0)
    assert confidence_threshold(codes, probs, np.arange(20), 0.8) is None
    nothing = np.full(20, MISSING)
    assert confidence_threshold(nothing, probs, np.arange(20), 0.8) is None


def test_views_of_an_item_count_as_one() -> None:
    codes, probs = predictions(np.linspace(0.99, 0.6, 60), np.ones(60, dtype=bool))
    assert confidence_threshold(codes, probs, np.arange(60), 0.9) is not None
    assert confidence_threshold(codes, probs, np.arange(60) % 12, 0.9) is None


def test_binomial_tails_by_hand() -> None:
    assert binomial_tail(14, 14, 0.8) == pytest.approx(0.8**14)
    assert binomial_tail(9, 10, 0.8) == pytest.approx(0.8**10 + 10 * 0.8**9 * 0.2)
    assert binomial_tail(10, 10, 0.8) < binomial_tail(9.5, 10, 0.8) < binomial_tail(9, 10, 0.8)
    assert binomial_tail(0, 10, 0.8) == 1.0


def simulated(
    num_items: int, accuracy: float, concentration: float, useful: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw five views per item; confidence reflects the accuracy of the item if `useful`, else it is random."""
    item_accuracies = rng.beta(concentration * accuracy, concentration * (1 - accuracy), num_items)
    items = np.repeat(np.arange(num_items), 5)
    right = rng.random(len(items)) < item_accuracies[items]
    known = item_accuracies[items] if useful else rng.random(num_items)[items]
    codes, probs = predictions(0.5 + 0.4 * known + 0.1 * rng.random(len(items)), right)
    return codes, probs, items


@pytest.mark.parametrize("accuracy", [0.5, 0.79])
@pytest.mark.parametrize("concentration", [0.1, 2.0])
def test_uninformative_confidence_rarely_has_a_threshold(accuracy: float, concentration: float) -> None:
    rng = np.random.default_rng(0)
    for num_items in (20, 100):
        drawn = (simulated(num_items, accuracy, concentration, False, rng) for _ in range(400))
        assert np.mean([confidence_threshold(*data, 0.8) is not None for data in drawn]) <= 0.05


def test_informative_confidence_has_a_threshold_with_the_required_accuracy() -> None:
    rng = np.random.default_rng(0)
    other_codes, other_probs, _ = simulated(20_000, 0.8, 2.0, True, rng)
    levels = [confidence_threshold(*simulated(200, 0.8, 2.0, True, rng), 0.9) for _ in range(200)]
    found = [level for level in levels if level is not None]
    assert len(found) >= 0.8 * len(levels)
    right = other_probs.argmax(axis=1) == other_codes
    kept = [right[is_confident(other_probs, level)].mean() >= 0.9 for level in found]
    assert right.mean() < 0.81 and np.mean(kept) >= 0.95


def test_without_a_threshold_not_even_a_probability_of_one_is_confident() -> None:
    probs = np.array([[1.0, 0.0], [0.6, 0.4]], dtype=np.float32)
    assert is_confident(probs, None).tolist() == [False, False]
    assert is_confident(probs, 0.6).tolist() == [True, True]
    assert is_confident(probs, 1.0).tolist() == [True, False]


def test_bins_are_weighted_by_their_number_of_photographs() -> None:
    bins = pd.DataFrame({"confidence": [0.5, 0.9], "accuracy": [0.25, 1.0], "n": [3, 1]})
    assert expected_calibration_error(bins) == pytest.approx((3 * 0.25 + 0.1) / 4)
