"""Accuracy and F1 from confusion matrices: the only definitions, which every module uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrine.labels import MISSING

Counts = NDArray[np.number[Any]]
"""Confusion matrices, (..., true labels, predicted labels); each score is (...), and NaN where nothing was counted."""


def confusion_counts(codes: NDArray[np.int64], predicted: NDArray[np.int64], num_labels: int) -> NDArray[np.int64]:
    """Count pairs of true (rows) and predicted (columns) labels; unlabeled photographs are ignored.

    Shape:
        codes, predicted: (photos,); returns: (labels, labels)
    """
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    labeled = codes != MISSING
    np.add.at(counts, (codes[labeled], predicted[labeled]), 1)
    return counts


def accuracy(confusions: Counts) -> NDArray[np.float64]:
    """Return the fraction of correct predictions."""
    return _fraction(_right(confusions).sum(axis=-1), confusions.sum(axis=(-2, -1)))


def balanced_accuracy(confusions: Counts) -> NDArray[np.float64]:
    """Return the mean recall of the labels that occur."""
    support = confusions.sum(axis=-1)
    recall = np.nan_to_num(_fraction(_right(confusions), support))
    return _fraction(recall.sum(axis=-1), (support > 0).sum(axis=-1))


def label_f1(confusions: Counts) -> NDArray[np.float64]:
    """Return the F1 of every label; NaN for a label that is neither true nor predicted. Shape: (..., labels)."""
    return _fraction(2 * _right(confusions), confusions.sum(axis=-1) + confusions.sum(axis=-2))


def macro_f1(confusions: Counts) -> NDArray[np.float64]:
    """Return the mean F1 of the labels that are true or predicted."""
    f1 = label_f1(confusions)
    return _fraction(np.nan_to_num(f1).sum(axis=-1), np.isfinite(f1).sum(axis=-1))


def _right(confusions: Counts) -> Counts:
    return np.diagonal(confusions, axis1=-2, axis2=-1)


def _fraction(part: Counts, whole: Counts) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part / whole, dtype=np.float64)
