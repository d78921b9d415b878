"""Intervals and tests by item: hand-computed cases, agreement with scipy, and coverage by simulation."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vitrine.evaluation.resampling import count_interval, item_codes, item_confusions, item_interval, sign_flip_test
from vitrine.labels import MISSING
from vitrine.predictions import fuse_views
from vitrine.scores import accuracy, balanced_accuracy, macro_f1


def test_confusions_are_counted_within_items_and_skip_unlabeled_photographs() -> None:
    codes = np.array([0, 0, 1, MISSING])
    counts = item_confusions(codes, np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), 2)
    assert counts.tolist() == [[[1, 1], [0, 0]], [[0, 0], [0, 1]]]


def fractions(right: list[float], num: list[int]) -> tuple[float, float]:
    """Return the interval of a fraction of photographs; `num` is the number of photographs of each item."""
    return item_interval(lambda sums: sums[..., 0] / sums[..., 1], np.array([right, num], dtype=np.float64).T)


def test_an_interval_by_hand() -> None:
    # Items 2 of 2, 1 of 2, 0 of 2: 1/2. Without 3/4 of the first: 1.5/4.5, a change of 1/6, of the third -1/6.
    error = np.sqrt(2) * (1 / 6) / 0.75
    half = stats.t.ppf(0.975, 2) * error / 0.25
    low, high = fractions([2, 1, 0], [2, 2, 2])
    assert (low, high) == pytest.approx((1 / (1 + np.exp(half)), 1 / (1 + np.exp(-half))))


def test_with_many_items_the_interval_follows_from_the_standard_error() -> None:
    right = np.random.default_rng(0).random(2000) < 0.7
    low, high = fractions(right.astype(float).tolist(), [1] * 2000)
    error = np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert (low, high) == pytest.approx((right.mean() - 1.96 * error, right.mean() + 1.96 * error), abs=1e-3)


def test_views_of_one_item_widen_the_interval() -> None:
    right = np.random.default_rng(0).random(100) < 0.6
    by_item = fractions((5.0 * right).tolist(), [5] * 100)
    by_photo = fractions(np.repeat(right, 5).astype(float).tolist(), [1] * 500)
    # Five views that are always right or wrong together carry as much information as one: sqrt(5) times as wide.
    assert (by_item[1] - by_item[0]) / (by_photo[1] - by_photo[0]) == pytest.approx(5**0.5, rel=0.05)


def test_without_spread_an_interval_depends_on_the_number_of_items() -> None:
    # All right: the Clopper-Pearson interval of 20 of 20.
    assert fractions([5.0] * 20, [5] * 20) == pytest.approx((0.025 ** (1 / 20), 1))
    assert fractions([0.0] * 20, [5] * 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert fractions([2.0], [5]) == pytest.approx((0.4 * 0.025, 1 - 0.6 * 0.025))  # one item is hardly any evidence
    equal = item_interval(lambda s: s[..., 0] / s[..., 1], np.array([[0.0, 5.0]] * 20), bounds=(-1, 1))
    assert equal == pytest.approx((-(1 - 0.025 ** (1 / 20)), 1 - 0.025 ** (1 / 20)))


def test_no_label_is_ever_lost_from_macro_f1() -> None:
    # Ten classes of one item each, all right: leaving one out would drop its class, leaving out most of it does not.
    codes = np.arange(10)
    right = item_interval(macro_f1, item_confusions(codes, codes, codes, 10))
    assert right == pytest.approx((0.025 ** (1 / 10), 1))
    low, high = item_interval(macro_f1, item_confusions(codes, np.where(codes == 9, 8, codes), codes, 10))
    assert 0.4 < low < 0.8 < 0.87 < high < 1  # macro F1 (8 + 2/3 + 0) / 10


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=30))
def test_an_interval_has_width_contains_its_value_and_stays_within_bounds(rows: list[tuple[int, int, int]]) -> None:
    true, predicted, items = np.array(rows).T
    items = np.unique(items, return_inverse=True)[1]
    for score in (accuracy, balanced_accuracy, macro_f1):
        confusions = item_confusions(true, predicted, items, 3)
        low, high = item_interval(score, confusions)
        assert 0 <= low < high <= 1
        assert low <= score(confusions.sum(axis=0)) <= high


def test_counts_of_items_have_exact_intervals() -> None:
    assert count_interval(20, 20) == pytest.approx((0.025 ** (1 / 20), 1))
    assert count_interval(0, 7) == pytest.approx((0, 1 - 0.025 ** (1 / 7)))
    low, high = count_interval(3, 11)
    assert stats.binom.sf(2, 11, low) == pytest.approx(0.025) and stats.binom.cdf(3, 11, high) == pytest.approx(0.025)


@pytest.mark.slow
@pytest.mark.parametrize("items_per_class", [[2] * 10, [12] * 10])
def test_95_percent_intervals_cover_the_truth_in_95_percent_of_cases(items_per_class: list[int]) -> None:
    simulate = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/coverage.py"))["misses"]
    missed = [simulate(items_per_class, mean, concentration=2, repeats=300, seed=5) for mean in (0.5, 0.75, 0.9)]
    for name in ("accuracy", "macro_f1", "difference"):
        below, above = np.mean([found[name] for found in missed], axis=0)
        assert 0.92 <= 1 - below - above <= 0.97, name
        assert max(below, above) <= 0.05, name


def test_few_items_are_tested_exactly() -> None:
    # Of the 8 ways to sign 3, 2, 1 only +++ and --- reach 6.
    assert sign_flip_test(np.array([3.0, 2.0, 1.0]), seed=0) == pytest.approx(2 / 8)
    # +3 -1: sums are 4, 2, -2, -4; all four reach 2.
    assert sign_flip_test(np.array([3.0, -1.0]), seed=0) == 1.0
    assert sign_flip_test(np.array([0.0, 0.0]), seed=0) == 1.0
    assert sign_flip_test(np.array([1.0, 0.0]), seed=0) == 1.0


def test_many_items_agree_with_scipy() -> None:
    differences = np.random.default_rng(4).normal(0.25, 1, 40)
    expected_p = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    ).pvalue
    assert sign_flip_test(differences, seed=1) == pytest.approx(expected_p, abs=0.02)
    assert sign_flip_test(differences, seed=1) == sign_flip_test(-differences, seed=1)


def test_the_p_value_is_uniform_when_nothing_differs() -> None:
    rng = np.random.default_rng(5)
    found = [sign_flip_test(rng.normal(size=20), seed=k, draws=400) for k in range(300)]
    assert np.mean(np.array(found) < 0.05) < 0.1
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_views_are_fused_by_their_geometric_mean() -> None:
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], dtype=np.float32)
    fused = fuse_views(probs, np.array([0, 0, 1]))
    expected = np.sqrt([0.9 * 0.4, 0.1 * 0.6])
    np.testing.assert_allclose(fused[0], expected / expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(fused[1], [0.2, 0.8], rtol=1e-6)


def test_an_items_label_is_that_of_its_views() -> None:
    codes = np.array([1, MISSING, 0, 1, MISSING])
    assert item_codes(codes, np.array([0, 0, 1, 1, 2])).tolist() == [1, MISSING, MISSING]


def test_with_many_items_the_observed_signs_count_as_one_draw() -> None:
    # 40 items that all differ the same way: no random flip comes near.
    assert sign_flip_test(np.ones(40), seed=0, draws=999) == pytest.approx(1 / 1000)
