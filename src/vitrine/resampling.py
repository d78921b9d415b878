"""How sure scores are: intervals and tests whose unit is the item, since views of one item are alike."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from vitrine.labels import MISSING

DRAWS = 5000
MAX_EXACT_ITEMS = 14


def item_confusions(
    codes: NDArray[np.int64], predicted: NDArray[np.int64], items: NDArray[np.int64], num_labels: int
) -> NDArray[np.int64]:
    """Count true and predicted labels within every item; unlabelled photographs do not count.

    Shape:
        codes, predicted, items: (photos,), items numbered from 0; returns: (items, true labels, predicted labels)
    """
    counts = np.zeros((int(items.max(initial=-1)) + 1, num_labels, num_labels), dtype=np.int64)
    labelled = codes != MISSING
    np.add.at(counts, (items[labelled], codes[labelled], predicted[labelled]), 1)
    return counts


def draw_items(num_items: int, seed: int, draws: int = DRAWS) -> NDArray[np.int64]:
    """Draw as many items as there are, with replacement: how often each was drawn. Shape: (draws, items).

    Source:
        the cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their Application, section 3.8.
    """
    return np.random.default_rng(seed).multinomial(num_items, np.full(num_items, 1 / num_items), size=draws)


def scores_of(confusions: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return accuracy and macro F1 of confusion matrices; macro F1 is over the labels that are true or predicted.

    Shape:
        confusions: (..., true labels, predicted labels); each value: (...); NaN where nothing was counted
    """
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    both = confusions.sum(axis=-1) + confusions.sum(axis=-2)
    occurs = both > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(occurs, 2 * right / both, 0.0).sum(axis=-1) / occurs.sum(axis=-1)
        accuracy = right.sum(axis=-1) / confusions.sum(axis=(-2, -1))
    return {"accuracy": accuracy, "macro_f1": f1}


def bootstrap(confusions: NDArray[np.int64], seed: int, draws: int = DRAWS) -> dict[str, NDArray[np.float64]]:
    """Draw items with replacement and score each draw. Shape: (items, labels, labels) -> each value (draws,)."""
    weights = draw_items(len(confusions), seed, draws)
    flat = weights @ confusions.reshape(len(confusions), -1)
    return scores_of(flat.reshape(draws, *confusions.shape[1:]))


def interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws; draws without a value do not count."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def jackknife_interval(whole: float, without: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return an interval from leaving out one item at a time, for measures that repeated items would flatter.

    Args:
        whole: the measure with all items.

    Shape:
        without: (items,), the measure without each
    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, section 11.2, with Student's t.
    """
    num = len(without)
    if num < 2:
        return float("nan"), float("nan")
    error = float(np.sqrt((num - 1) / num * ((without - without.mean()) ** 2).sum()))
    half = float(student.ppf((1 + level) / 2, num - 1)) * error
    return whole - half, whole + half


def sign_flip_test(differences: NDArray[np.float64], seed: int, draws: int = DRAWS) -> float:
    """Return the two-sided p-value of a sum of paired differences, one an item, under random signs.

    Exact with few items; else from random flips, counting the observed one.

    Shape:
        differences: (items,)
    Source:
        the one-sample permutation test; Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, section 3.2.
    """
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    observed = abs(differences.sum()) - 1e-9
    if len(differences) <= MAX_EXACT_ITEMS:
        signs = np.array(list(product((1, -1), repeat=len(differences))))
        return float((np.abs(signs @ differences) >= observed).mean())
    signs = np.random.default_rng(seed).choice([-1, 1], size=(draws, len(differences)))
    return float((1 + (np.abs(signs @ differences) >= observed).sum()) / (1 + draws))


def fuse_views(probs: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """Combine the views of every item: the normalised geometric mean of their probabilities.

    Shape:
        probs: (photos, labels); items: (photos,), numbered from 0; returns: (items, labels)
    """
    logs = np.log(np.maximum(probs.astype(np.float64), 1e-12))
    totals = np.zeros((int(items.max(initial=-1)) + 1, probs.shape[1]))
    np.add.at(totals, items, logs)
    means = totals / np.maximum(np.bincount(items, minlength=len(totals)), 1)[:, None]
    fused = np.exp(means - means.max(axis=1, keepdims=True))
    return np.asarray(fused / fused.sum(axis=1, keepdims=True))


def item_codes(codes: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every item's label; MISSING where it has none or its views disagree. Shape: (photos,) -> (items,)."""
    found = np.full(int(items.max(initial=-1)) + 1, MISSING, dtype=np.int64)
    for item in range(len(found)):
        labels = np.unique(codes[(items == item) & (codes != MISSING)])
        if len(labels) == 1:
            found[item] = labels[0]
    return found
