"""Novelty measures are right on small cases, their intervals cover, and the best servable score is chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from vitrine.evaluation.novelty import (
    ALL_KINDS,
    auroc,
    choose_score,
    fit_detectors,
    fit_thresholds,
    fpr_at_tpr,
    headline_novelty_metrics,
    judge_scores,
    refused_share,
    with_item_interval,
)
from vitrine.inference.novelty import Signals, unit


def ones(*nums: int) -> tuple[np.ndarray, ...]:
    return tuple(np.ones((1, num)) for num in nums)


def test_auroc_equals_scikit_learns_also_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    known, novel = rng.integers(0, 6, 40).astype(float), rng.integers(2, 9, 30).astype(float)
    weights = rng.integers(1, 4, (3, 40)).astype(float), rng.integers(0, 4, (3, 30)).astype(float)
    truth, scores = np.repeat([0, 1], [40, 30]), np.concatenate([known, novel])
    expected = [roc_auc_score(truth, scores, sample_weight=np.concatenate(pair)) for pair in zip(*weights, strict=True)]
    np.testing.assert_allclose(auroc(known, novel, weights), expected)


def test_fpr_is_the_fraction_of_outliers_up_to_the_threshold_that_accepts_95_percent() -> None:
    known = np.arange(1, 101.0)
    novel = np.array([94.5, 95.0, 95.5, 200.0])
    assert fpr_at_tpr(known, novel, ones(100, 4)) == [0.5]  # those up to 95
    doubled = np.concatenate([np.ones(99), [100.0]])[None]  # more than half of the weight is at 100
    assert fpr_at_tpr(known, novel, (doubled, np.ones((1, 4)))) == [0.75]


def test_a_perfect_score_on_few_items_has_a_wide_interval() -> None:
    known, novel = (np.zeros(10), np.arange(10) // 2), (np.ones(8), np.arange(8) // 2)
    value, low, high = with_item_interval(auroc, known, novel, 0)
    assert (value, high) == (1.0, 1.0) and low == pytest.approx(1 - (1 - 0.025 ** (1 / 4)))
    value, low, high = with_item_interval(fpr_at_tpr, known, novel, 0)
    assert (value, low) == (0.0, 0.0) and high == pytest.approx(1 - 0.025 ** (1 / 4))
    share, low, high = refused_share(np.array([True] * 10 + [False] * 10), np.arange(20) // 5)
    assert low < share == 0.5 < high


def clustered(rng: np.random.Generator, num: int, views: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    items = np.repeat(np.arange(num), views)
    return shift + rng.normal(size=num)[items] + 0.7 * rng.normal(size=num * views), items


@pytest.mark.parametrize("measure", [auroc, fpr_at_tpr])
def test_intervals_over_items_cover(measure) -> None:  # type: ignore[no-untyped-def]
    """Views of an item share most of their score; intervals that assume independence would be half as wide."""
    rng = np.random.default_rng(3)
    known, novel = clustered(rng, 4000, 1, 0.0)[0], clustered(rng, 4000, 1, 1.6)[0]
    truth = float(measure(known, novel, ones(4000, 4000))[0])
    covered = []
    for seed in range(150):
        _, low, high = with_item_interval(
            measure, clustered(rng, 20, 5, 0), clustered(rng, 20, 2, 1.6), seed, draws=300
        )
        covered.append(low <= truth <= high)
    assert 0.88 <= np.mean(covered) <= 0.995


def make_signals(num: int, angle: float, seed: int) -> Signals:
    rng = np.random.default_rng(seed)
    raw = np.array([np.cos(angle), np.sin(angle), 0.0]) + 0.1 * rng.normal(size=(num, 3))
    probs = np.full((num, 2), 0.5) + 0.01 * rng.random((num, 1)) * np.array([1, -1])
    return Signals(probs, unit(raw), np.log(probs))


def test_scores_are_measured_by_kind_and_the_best_servable_one_is_chosen() -> None:
    train, val, other = make_signals(40, 0.0, 1), make_signals(20, 0.0, 2), make_signals(12, 1.4, 3)
    detectors = fit_detectors(train, np.zeros(40, np.int64), 3)
    thresholds = fit_thresholds(detectors, val, 0.9)
    kinds, items = np.repeat(["near", "far"], 6), np.array([f"{row // 2}" for row in range(12)])
    known = val, np.arange(20) // 5
    table = judge_scores("one", detectors, thresholds, known, (other, kinds, items), 0)
    assert list(dict.fromkeys(table["kind"])) == [ALL_KINDS, "near", "far"]
    of = table.set_index(["score", "kind"])
    assert of.loc[("neighbors", ALL_KINDS), ["n", "num_items", "known_n", "known_items"]].tolist() == [12, 6, 20, 4]
    assert of.loc[("neighbors", "far"), ["auroc", "fpr_at_95_tpr", "refused"]].tolist() == [1, 0, 1]
    assert of.loc[("max_probability", ALL_KINDS), "auroc"] < 0.9
    assert (table["known_refused"] <= 0.1).all(), "val itself"
    assert choose_score(table) in ("neighbors", "mahalanobis")
    worse = table.assign(auroc=table["score"].map({"energy": 1.0, "max_probability": 0.9}).fillna(0.5))
    assert choose_score(worse) == "max_probability", "energy is better, but no export gives logits"
    metrics, intervals = headline_novelty_metrics(table, "neighbors")
    assert metrics["one_auroc"] == 1.0 and set(metrics) == {"one_auroc", "one_fpr", "one_wrongly_refused"}
    assert set(intervals) == set(metrics)


def test_without_outliers_neighbors_are_served_and_wrong_refusals_are_measured() -> None:
    train, val = make_signals(40, 0.0, 1), make_signals(20, 0.0, 2)
    detectors = fit_detectors(train, np.zeros(40, np.int64), 3)
    nothing = Signals(np.empty((0, 2)), np.empty((0, 3)), np.empty((0, 2))), np.empty(0, np.str_), np.empty(0, np.str_)
    known = val, np.arange(20) // 5
    table = judge_scores("one", detectors, fit_thresholds(detectors, val, 0.9), known, nothing, 0)
    assert choose_score(table) == "neighbors"
    metrics, _ = headline_novelty_metrics(table, "neighbors")
    assert list(metrics) == ["one_wrongly_refused"] and isinstance(table, pd.DataFrame)
