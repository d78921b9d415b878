"""Selections for labeling agree with the method's paper, with scikit-activeml, and with cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vitrine.evaluation.active import OURS, STRATEGIES, ActiveParams, gains, learning_curves, simulate
from vitrine.evaluation.selection import (
    NUM_NEIGHBORS,
    TYPICAL_PER_CLASS,
    item_means,
    margins,
    next_items,
    typical_items,
    unit,
)
from vitrine.labels import LabelSpace


def blobs(seed: int, sizes: tuple[int, ...] = (30, 20, 10, 5)) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return unit vectors around one direction per size, and the direction that each belongs to."""
    rng = np.random.default_rng(seed)
    centers = np.eye(8)[: len(sizes)]
    points = [center + rng.normal(0, 0.05, (size, 8)) for center, size in zip(centers, sizes, strict=True)]
    return unit(np.concatenate(points)), np.repeat(np.arange(len(sizes)), sizes)


def test_items_are_the_means_of_their_photographs() -> None:
    items = np.array([0, 0, 1])
    assert item_means(np.array([1.0, 3.0, 5.0]), items).tolist() == [2, 5]
    assert item_means(np.array([[1.0, 0], [0, 1], [2, 2]]), items).tolist() == [[0.5, 0.5], [2, 2]]


def test_margins_by_hand() -> None:
    probs = {"class": np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]]), "color": np.array([[0.5, 0.5], [0.9, 0.1]])}
    assert margins(probs, np.array([0, 1])) == pytest.approx([0.25, 0.4])
    assert margins(probs, np.array([0, 0])) == pytest.approx([0.325])


@pytest.mark.parametrize("seed", range(3))
def test_typical_items_represent_the_largest_groups_without_a_label(seed: int) -> None:
    features, group = blobs(seed)
    labeled = np.zeros(len(features), dtype=bool)
    labeled[0] = True  # in the largest group
    chosen = typical_items(features, labeled, 3, seed)
    assert group[chosen].tolist() == [1, 2, 3]
    for row in chosen:  # the item of highest density in its group
        rows = np.flatnonzero(group == group[row])
        distances = np.sort(np.linalg.norm(features[rows][:, None] - features[rows][None], axis=2), axis=1)
        assert rows[distances[:, 1 : NUM_NEIGHBORS + 1].sum(axis=1).argmin()] == row


@pytest.mark.parametrize("seed", range(5))
def test_typical_items_equal_those_of_scikit_activeml(seed: int) -> None:
    pool = pytest.importorskip("skactiveml.pool")
    features, _ = blobs(seed)
    labeled = np.zeros(len(features), dtype=bool)
    labeled[[1, 31]] = True
    labels = np.where(labeled, 0.0, np.nan)
    for num in (1, 2):
        expected = pool.TypiClust(random_state=seed, cluster_algo_dict={"random_state": seed}).query(
            features, labels, batch_size=num
        )
        assert typical_items(features, labeled, num, seed) == expected.tolist()


def test_no_item_is_chosen_twice_or_if_already_labeled() -> None:
    features, _ = blobs(0, (6, 4))
    labeled = np.zeros(10, dtype=bool)
    labeled[[0, 7]] = True
    for num in (1, 5, 8, 50):
        for unsure in (None, np.arange(10.0)):
            chosen = (
                typical_items(features, labeled, num, 0)
                if unsure is None
                else next_items(features, unsure, labeled, 0, num, 0)
            )
            assert len(chosen) == len(set(chosen)) == min(num, 8) and not labeled[chosen].any()


def test_uncertainty_counts_once_there_are_enough_labels() -> None:
    features, _ = blobs(0)
    unsure = np.linspace(1, 0, len(features))
    labeled = np.zeros(len(features), dtype=bool)
    labeled[: TYPICAL_PER_CLASS * 2] = True
    assert next_items(features, unsure, labeled, 2, 3, 0) == [64, 63, 62]
    assert next_items(features, unsure, labeled, 3, 3, 0) == typical_items(features, labeled, 3, 0)


def test_identical_items_and_a_single_item_are_handled() -> None:
    same = unit(np.ones((5, 3)))
    assert len(set(typical_items(same, np.zeros(5, dtype=bool), 3, 0))) == 3
    assert typical_items(same[:1], np.zeros(1, dtype=bool), 3, 0) == [0]
    assert typical_items(same[:2], np.ones(2, dtype=bool), 3, 0) == []


def test_a_simulation_scores_every_item_once_per_repeat_and_compares_with_random() -> None:
    features, group = blobs(1, (12, 12, 12))
    items = np.repeat(np.arange(18), 2)
    params = ActiveParams(seed=1, repeats=2, folds=3, first_items=2, batch_items=3, rounds=3, components=4)
    found = simulate(features, {"class": group}, items, LabelSpace({"class": ("a", "b", "c")}), params)
    assert set(found["strategy"]) == set(STRATEGIES) and set(found["num_items"]) == {2, 5, 8}
    counts = found.groupby(["repeat", "strategy", "num_items"])["item"].agg(["count", "nunique"])
    assert (counts == 18).all(axis=None)
    firsts = found[found["num_items"] == 2].pivot_table(index=["repeat", "item"], columns="strategy", values="accuracy")
    assert (firsts.nunique(axis=1) == 1).all(), "all strategies start from the same items"
    curves = learning_curves(found).set_index(["strategy", "num_items"])["accuracy"]
    assert curves[("random", 8)] >= curves[("random", 2)]
    compared = gains(found).set_index("strategy")
    assert compared.loc["random", "gain"] == 0 and compared.loc[OURS, "gain_ci_low"] <= compared.loc[OURS, "gain"]
    areas = found.groupby("strategy")["accuracy"].mean()
    assert compared["area"].to_dict() == pytest.approx(areas.to_dict())
    assert compared.loc[OURS, "gain"] == pytest.approx(areas[OURS] - areas["random"])
