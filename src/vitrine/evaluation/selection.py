"""Which items to label next: typical ones while there are few labels, then those that the model is least sure of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

TYPICAL_PER_CLASS = 2
"""Labeled items per class from which uncertainty is more informative than typicality."""

NUM_NEIGHBORS = 5


def item_means(values: NDArray[np.floating], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average the photographs of every item. Shape: (photos,) or (photos, features), (photos,) -> (items, ...)."""
    sums = np.zeros((items.max() + 1, *values.shape[1:]))
    np.add.at(sums, items, values)
    counts = np.bincount(items).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(sums / counts)


def unit(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale to length 1. Shape: (n, features)."""
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), dtype=np.float64)


def margins(probs: Mapping[str, NDArray[np.floating]], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the margin between the two highest probabilities, averaged over tasks and photographs.

    Shape:
        probs[task]: (photos, labels); items: (photos,), numbered from 0; returns: (items,)
    """
    gaps = [np.diff(np.sort(values, axis=1)[:, -2:], axis=1)[:, 0] for values in probs.values() if values.shape[1] > 1]
    return item_means(np.mean(gaps, axis=0), items)


def typical_items(features: NDArray[np.floating], labeled: NDArray[np.bool_], num: int, seed: int) -> list[int]:
    """Choose representative unlabeled items: the densest of each of the largest clusters without a label.

    There are as many clusters as items that will be labeled. Once every cluster has a label, the remaining items follow
    in order of density.

    Shape:
        features: (items, features), of length 1; labeled: (items,)
    Source:
        TypiClust: Hacohen et al., Active learning on a budget (ICML 2022).
    """
    num = min(num, int((~labeled).sum()))
    num_clusters = min(int(labeled.sum()) + num, len(np.unique(features, axis=0)))
    clusters = KMeans(num_clusters, random_state=seed).fit_predict(features)
    sizes = np.bincount(clusters)
    sizes[np.unique(clusters[labeled])] = 0
    density = np.full(len(features), -np.inf)
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        k = min(NUM_NEIGHBORS, len(rows) - 1)
        if k:
            distances, _ = NearestNeighbors(n_neighbors=k + 1).fit(features[rows]).kneighbors(features[rows])
            density[rows] = -distances.sum(axis=1) / k
    chosen: list[int] = []
    for cluster in np.argsort(-sizes, kind="stable")[:num]:
        if sizes[cluster]:
            rows = np.flatnonzero(clusters == cluster)
            chosen.append(int(rows[np.argmax(density[rows])]))
    rest = [row for row in np.argsort(-density, kind="stable") if not labeled[row] and row not in chosen]
    return [*chosen, *map(int, rest[: num - len(chosen)])]


def next_items(
    features: NDArray[np.floating],
    item_margins: NDArray[np.floating],
    labeled: NDArray[np.bool_],
    num_classes: int,
    num: int,
    seed: int,
) -> list[int]:
    """Choose items to label: typical ones up to TYPICAL_PER_CLASS for each class, then the smallest margins.

    Args:
        num_classes: number of classes known so far.

    Shape:
        features: (items, features), of length 1; item_margins, labeled: (items,)
    Source:
        Doucet et al., Bridging diversity and uncertainty in active learning with self-supervised pre-training (2024).
    """
    if labeled.sum() < TYPICAL_PER_CLASS * num_classes:
        return typical_items(features, labeled, num, seed)
    order = np.argsort(np.where(labeled, np.inf, item_margins), kind="stable")
    return [int(row) for row in order[: min(num, int((~labeled).sum()))]]
