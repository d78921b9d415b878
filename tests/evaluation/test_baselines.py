"""Baselines: features of shape and color, probabilities of all labels, folds of whole items."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrine.data.splits import SplitError, assign_folds
from vitrine.evaluation.baselines import (
    classical_features,
    linear_probe_probs,
    majority_probs,
    neighbor_probs,
    svm_probs,
)
from vitrine.labels import MISSING


def painted(color: tuple[int, int, int], stripes: int) -> np.ndarray:
    photo = np.full((64, 64, 3), 255, dtype=np.uint8)
    photo[np.arange(64) * stripes // 64 % 2 == 0] = color
    return photo


def test_features_depend_on_color_and_shape() -> None:
    red, blue, red_upright = painted((200, 0, 0), 4), painted((0, 0, 200), 4), painted((200, 0, 0), 4).swapaxes(0, 1)
    features = classical_features(np.stack([red, blue, red_upright, red]))
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[0], features[3])
    assert np.abs(features[0] - features[1]).sum() > 1 and np.abs(features[0] - features[2]).sum() > 1


def cluttered(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return squares of six colors in front of random checkerboards."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, num)
    colors = np.array([(200, 30, 30), (30, 160, 40), (0, 0, 255), (220, 200, 40), (230, 230, 230), (30, 30, 30)])
    photos = np.kron(rng.integers(0, 256, (num, 8, 8, 3)), np.ones((1, 12, 12, 1)))
    for photo, code, edge in zip(photos, codes, rng.integers(10, 25, num), strict=True):
        photo[edge : 96 - edge, edge : 96 - edge] = colors[code] + rng.normal(0, 25, 3)
    return np.clip(photos + rng.normal(0, 10, photos.shape), 0, 255).astype(np.uint8), codes


def test_the_svm_recognizes_colors_in_clutter() -> None:
    photos, codes = cluttered(160)
    features = classical_features(photos)
    predicted = svm_probs(features[:120], codes[:120], features[120:], 6, 10.0).argmax(axis=1)
    assert (predicted == codes[120:]).mean() > 0.9


def test_saturated_and_flat_photographs_have_features() -> None:
    photos = np.zeros((4, 64, 64, 3), dtype=np.uint8)
    photos[0, ..., 2] = photos[1, ..., 0] = photos[2] = 255  # blue, red, white, black
    features = classical_features(photos)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 0.5, rtol=1e-4)  # colors only
    gradients = features[:, : -2 * 4 * 8 * 8]
    assert np.abs(gradients).max() < 1e-3 and len(np.unique(features.round(6), axis=0)) == 4


def test_the_majority_predicts_the_label_frequencies_of_train() -> None:
    np.testing.assert_allclose(majority_probs(np.array([0, 2, 2, MISSING]), 3, 2), [[1 / 3, 0, 2 / 3]] * 2)


@pytest.mark.parametrize("num_seen", [2, 3])
def test_learners_fit_separable_data_and_never_predict_unseen_labels(num_seen: int) -> None:
    rng = np.random.default_rng(0)
    centers = np.eye(4)[:num_seen] * 5
    codes = np.repeat(np.arange(num_seen), 10)
    train = centers[codes] + rng.normal(0, 0.1, (len(codes), 4))
    codes[0] = MISSING
    for probs in (
        svm_probs(train, codes, centers, 5, 10.0),
        linear_probe_probs(train, codes, centers, 5),
        neighbor_probs(train, codes, centers, 5, 3),
    ):
        assert probs.shape == (num_seen, 5)
        np.testing.assert_array_equal(probs.argmax(axis=1), np.arange(num_seen))
        np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
        assert (probs[:, num_seen:] == 0).all()


def test_with_fewer_than_two_labels_in_train_the_prediction_is_constant() -> None:
    train, test = np.random.default_rng(0).normal(size=(5, 3)), np.zeros((2, 3))

    def learned(*arrays: np.ndarray) -> list[np.ndarray]:
        return [svm_probs(*arrays, 4, 10.0), linear_probe_probs(*arrays, 4), neighbor_probs(*arrays, 4, 3)]

    one = np.array([2, MISSING, 2, MISSING, 2])
    for probs in learned(train, one, test):
        np.testing.assert_array_equal(probs, [[0, 0, 1, 0]] * 2)
    none = np.full(5, MISSING)
    for probs in learned(train, none, test):
        np.testing.assert_array_equal(probs, np.full((2, 4), 0.25))


def test_more_neighbors_than_photographs_mean_all_photographs() -> None:
    train, codes = np.eye(3), np.array([0, 1, 1])
    np.testing.assert_allclose(neighbor_probs(train, codes, np.ones((1, 3)), 2, 50), [[1 / 3, 2 / 3]], rtol=1e-6)


def test_folds_contain_whole_items_and_every_class() -> None:
    table = pd.DataFrame([{"class": f"c{k % 3}", "instance_id": f"i{k}"} for k in range(30) for _ in range(1 + k % 4)])
    folds = assign_folds(table, 5, 1)
    assert set(folds) == set(range(5))
    assert (pd.Series(folds).groupby(table["instance_id"]).nunique() == 1).all()
    assert (pd.crosstab(folds, table["class"]) > 0).all().all()
    np.testing.assert_array_equal(folds, assign_folds(table, 5, 1))
    with pytest.raises(SplitError, match="'c0' has 10"):
        assign_folds(table, 11, 1)
