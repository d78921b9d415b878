"""Intervals and tests by item: hand-computed cases, and agreement with scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from vitrine.labels import MISSING
from vitrine.resampling import (
    bootstrap,
    draw_items,
    fuse_views,
    interval,
    item_codes,
    item_confusions,
    scores_of,
    sign_flip_test,
)


def test_confusions_are_counted_within_items_and_skip_the_unlabelled() -> None:
    codes = np.array([0, 0, 1, MISSING])
    counts = item_confusions(codes, np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), 2)
    assert counts.tolist() == [[[1, 1], [0, 0]], [[0, 0], [0, 1]]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.array(pairs).T
    scores = scores_of(item_confusions(true, predicted, np.zeros(len(true), dtype=np.int64), 4)[0])
    assert scores["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))


def test_drawn_items_are_as_many_as_there_are_and_repeat() -> None:
    drawn = draw_items(7, seed=1, draws=50)
    assert drawn.shape == (50, 7) and (drawn.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(drawn, draw_items(7, seed=1, draws=50))
    assert not np.array_equal(drawn, draw_items(7, seed=2, draws=50))


def test_the_interval_of_single_photographs_is_that_of_scipys_bootstrap() -> None:
    right = np.random.default_rng(0).random(60) < 0.7
    codes = np.zeros(60, dtype=np.int64)
    confusions = item_confusions(codes, np.where(right, 0, 1), np.arange(60), 2)
    ours = interval(bootstrap(confusions, seed=3)["accuracy"])
    theirs = stats.bootstrap(
        (right.astype(float),), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_views_of_one_item_widen_the_interval() -> None:
    right = np.repeat(np.random.default_rng(0).random(20) < 0.6, 5)
    codes, predicted = np.zeros(100, dtype=np.int64), np.where(right, 0, 1)
    by_item = interval(bootstrap(item_confusions(codes, predicted, np.repeat(np.arange(20), 5), 2), 0)["accuracy"])
    by_photo = interval(bootstrap(item_confusions(codes, predicted, np.arange(100), 2), 0)["accuracy"])
    # Five views that are always right or wrong together say as much as one: the interval is sqrt(5) times as wide.
    assert (by_item[1] - by_item[0]) / (by_photo[1] - by_photo[0]) == pytest.approx(5**0.5, rel=0.15)


def test_an_interval_needs_values() -> None:
    assert interval(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), level=0.5) == (1.0, 3.0)
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_few_items_are_tested_exactly() -> None:
    # Of the 8 ways to sign 3, 2, 1 only +++ and --- reach 6.
    assert sign_flip_test(np.array([3.0, 2.0, 1.0]), seed=0) == pytest.approx(2 / 8)
    # +3 -1: sums are 4, 2, -2, -4; all four reach 2.
    assert sign_flip_test(np.array([3.0, -1.0]), seed=0) == 1.0
    assert sign_flip_test(np.array([0.0, 0.0]), seed=0) == 1.0
    assert sign_flip_test(np.array([1.0, 0.0]), seed=0) == 1.0


def test_many_items_agree_with_scipy() -> None:
    differences = np.random.default_rng(4).normal(0.25, 1, 40)
    theirs = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    ).pvalue
    assert sign_flip_test(differences, seed=1) == pytest.approx(theirs, abs=0.02)
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
