"""Uncertainty of scores: intervals and tests whose unit is the item, since views of one item are correlated."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest
from scipy.stats import t as student

from vitrine.labels import MISSING
from vitrine.scores import Counts

LEFT_OUT = 0.75
"""Omitted part of an item: with two items per label, 0.5 makes macro F1 jackknife intervals too narrow, 1 too wide."""

NO_SPREAD = 1e-9
DRAWS = 5000
MAX_EXACT_ITEMS = 14


def item_confusions(
    codes: NDArray[np.int64], predicted: NDArray[np.int64], items: NDArray[np.int64], num_labels: int
) -> NDArray[np.int64]:
    """Count true and predicted labels within every item; unlabeled photographs do not count.

    Shape:
        codes, predicted, items: (photos,), items numbered from 0; returns: (items, true labels, predicted labels)
    """
    counts = np.zeros((int(items.max(initial=-1)) + 1, num_labels, num_labels), dtype=np.int64)
    labeled = codes != MISSING
    np.add.at(counts, (items[labeled], codes[labeled], predicted[labeled]), 1)
    return counts


def item_interval(
    score: Callable[[Counts], NDArray[np.float64]],
    counts: Counts,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of a score of summed counts over items.

    The standard error is that of a jackknife that leaves out three quarters of one item at a time, so that no label is
    ever lost. The interval is Student's t on a logit scale between the bounds. If all items agree, there is no spread:
    the interval then allows for kinds of items that are missing from so small a sample.

    Args:
        score: function of one or many sums, such as `scores.macro_f1`.
        bounds: lowest and highest possible score.

    Shape:
        counts: (items, ...); score: (..., *counts of an item) -> (...)
    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, section 11.2; the fraction and the scale were chosen by
        the coverage that benchmarks/coverage.py measures; without spread, Clopper and Pearson (1934).
    """
    num, (least, greatest) = len(counts), bounds
    total = counts.sum(axis=0)
    value = float(score(total))
    changes = (value - score(total - LEFT_OUT * counts)) / LEFT_OUT
    error = float(np.sqrt((changes**2).sum()))
    if error < NO_SPREAD:
        unseen = float(1 - ((1 - level) / 2) ** (1 / num))
        return value - unseen * (value - least), value + unseen * (greatest - value)
    share, width = (value - least) / (greatest - least), greatest - least
    half = float(student.ppf((1 + level) / 2, num - 1)) * error / (width * share * (1 - share))
    low, high = expit(logit(share) + np.array([-half, half]))
    return least + width * float(low), least + width * float(high)


def count_interval(right: int, num: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a fraction of independent items.

    Source:
        Clopper and Pearson (1934).
    """
    interval = binomtest(right, num).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def jackknife_interval(whole: float, without: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return a jackknife interval over items, for measures that repeated items would inflate.

    Args:
        whole: the measure with all items.

    Shape:
        without: (items,), the measure without each item
    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, section 11.2, with Student's t.
    """
    num = len(without)
    if num < 2:
        return float("nan"), float("nan")
    error = float(np.sqrt((num - 1) / num * ((without - without.mean()) ** 2).sum()))
    half = float(student.ppf((1 + level) / 2, num - 1)) * error
    return whole - half, whole + half


def sign_flip_test(differences: NDArray[np.number[Any]], seed: int, draws: int = DRAWS) -> float:
    """Return the two-sided p-value of a sum of paired differences, one per item, under random signs.

    Exact for few items; otherwise from random flips, counting the observed one.

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


def item_codes(codes: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every item's label; MISSING where it has none or its views disagree. Shape: (photos,) -> (items,)."""
    item_labels = np.full(int(items.max(initial=-1)) + 1, MISSING, dtype=np.int64)
    for item in range(len(item_labels)):
        labels = np.unique(codes[(items == item) & (codes != MISSING)])
        if len(labels) == 1:
            item_labels[item] = labels[0]
    return item_labels
