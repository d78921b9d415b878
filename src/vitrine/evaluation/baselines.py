"""Systems that learn no features: the most common label, a support vector machine, a linear probe, neighbors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from skimage.color import rgb2lab
from skimage.feature import hog
from skimage.transform import resize
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from vitrine.labels import MISSING, LabelSpace
from vitrine.params import Section

FEATURE_SIZE_PX, CELL_PX = 96, 16
HISTOGRAM_BINS = (4, 8, 8)
LAB_RANGE = ((0, 100), (-80, 80), (-80, 80))
"""Colors outside this range, such as pure blue, count in the outermost bins."""

COLOR_WEIGHT = 0.5
"""Norm of the color features relative to the gradients': 0.5 was best for the class on Team 13's train and val."""


PROBE_SIZE_PX = 224
"""EfficientNet-Lite0 was trained at this size, and its features are best at it."""


class BaselineParams(Section):
    """Settings of the support vector machine and nearest neighbors."""

    svm_c: Annotated[float, Field(gt=0)]
    neighbors: Annotated[int, Field(ge=1)]


def classical_features(photos: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Describe shape by histograms of oriented gradients and color by Lab histograms, of the whole and the center.

    Each part has a fixed norm. Standardizing would amplify noise, as most bins are almost empty.

    Shape:
        photos: (photos, height, width, channels); returns: (photos, features)
    Source:
        Dalal and Triggs, Histograms of oriented gradients for human detection (2005).
    """
    rows = []
    for photo in photos:
        small: NDArray[np.float64] = resize(photo, (FEATURE_SIZE_PX, FEATURE_SIZE_PX), anti_aliasing=True)  # type: ignore[no-untyped-call]
        shape = hog(small, 9, (CELL_PX, CELL_PX), (2, 2), channel_axis=-1)
        lab = rgb2lab(small).clip(*np.transpose(LAB_RANGE))
        quarter = FEATURE_SIZE_PX // 4
        parts = [shape / (np.linalg.norm(shape) + 1e-3)]  # for one color, gradients are only rounding errors
        for region in (lab, lab[quarter:-quarter, quarter:-quarter]):
            counts, _ = np.histogramdd(region.reshape(-1, 3), HISTOGRAM_BINS, LAB_RANGE)
            parts.append(COLOR_WEIGHT * np.sqrt(counts.ravel() / counts.sum() / 2))
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def majority_probs(train_codes: NDArray[np.int64], num_labels: int, num: int) -> NDArray[np.float32]:
    """Predict the label frequencies of train, equal ones if it has no labels. Shape: returns (num, labels)."""
    counts = np.bincount(train_codes[train_codes != MISSING], minlength=num_labels).astype(np.float32)
    shares = counts / counts.sum() if counts.any() else np.full(num_labels, 1 / num_labels, dtype=np.float32)
    return np.tile(shares, (num, 1))


def svm_probs(
    train: NDArray[np.floating], codes: NDArray[np.int64], test: NDArray[np.floating], num_labels: int, c: float
) -> NDArray[np.float32]:
    """Fit an RBF support vector machine; the softmax of its pairwise votes stands in for probabilities.

    With fewer than two labels in train, as when a fold holds out all items with the others, it predicts as
    `majority_probs` does.

    Shape:
        train: (photos, features); codes: (photos,); test: (others, features); returns: (others, labels)
    """
    labeled = codes != MISSING
    if len(np.unique(codes[labeled])) < 2:
        return majority_probs(codes, num_labels, len(test))
    machine = SVC(C=c, decision_function_shape="ovr").fit(train[labeled], codes[labeled])
    scores = machine.decision_function(test)
    if scores.ndim == 1:  # two labels: one signed score
        scores = np.column_stack([-scores, scores])
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return _spread(powers / powers.sum(axis=1, keepdims=True), machine.classes_, num_labels)


def linear_probe_probs(
    train: NDArray[np.floating], codes: NDArray[np.int64], test: NDArray[np.floating], num_labels: int
) -> NDArray[np.float32]:
    """Fit logistic regression on features of a frozen network. Shape: as `svm_probs`."""
    labeled = codes != MISSING
    if len(np.unique(codes[labeled])) < 2:
        return majority_probs(codes, num_labels, len(test))
    probe = LogisticRegression(max_iter=1000).fit(train[labeled], codes[labeled])
    return _spread(probe.predict_proba(test), probe.classes_, num_labels)


def neighbor_probs(
    train: NDArray[np.floating], codes: NDArray[np.int64], test: NDArray[np.floating], num_labels: int, k: int
) -> NDArray[np.float32]:
    """Vote among the k nearest photographs by cosine, or among all if there are fewer. Shape: as `svm_probs`."""
    labeled = codes != MISSING
    if not labeled.any():
        return majority_probs(codes, num_labels, len(test))
    voters = KNeighborsClassifier(min(k, int(labeled.sum())), metric="cosine").fit(train[labeled], codes[labeled])
    return _spread(voters.predict_proba(test), voters.classes_, num_labels)


def _spread(probs: NDArray[np.floating], classes: NDArray[np.int64], num_labels: int) -> NDArray[np.float32]:
    """Assign probability 0 to labels absent from train. Shape: (photos, seen) -> (photos, labels)."""
    whole = np.zeros((len(probs), num_labels), dtype=np.float32)
    whole[:, classes] = probs
    return whole


def baseline_probs(
    photos: NDArray[np.uint8],
    features: NDArray[np.float32],
    codes: Mapping[str, NDArray[np.int64]],
    label_space: LabelSpace,
    train: NDArray[np.bool_],
    svm_c: float,
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Fit the linear probe and the SVM on the training photographs, task by task, and predict all photographs.

    Shape:
        photos: (photos, height, width, channels); features: (photos, features), of the frozen network
        codes[task], train: (photos,); returns: {system: {task: (photos, labels)}}
    """
    classical = classical_features(photos)
    probs: dict[str, dict[str, NDArray[np.float32]]] = {"linear_probe": {}, "svm": {}}
    for task in label_space:
        known, num = codes[task][train], label_space.num_labels(task)
        probs["linear_probe"][task] = linear_probe_probs(features[train], known, features, num)
        probs["svm"][task] = svm_probs(classical[train], known, classical, num, svm_c)
    return probs
