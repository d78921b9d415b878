"""The scores of one system on one task, by photograph and by item, with intervals; and comparisons of two systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vitrine.calibration import brier, expected_calibration_error, nll, reliability
from vitrine.labels import MISSING
from vitrine.resampling import (
    DRAWS,
    bootstrap,
    draw_items,
    fuse_views,
    interval,
    item_codes,
    item_confusions,
    scores_of,
    sign_flip_test,
)

SEED = 13
"""Of the draws behind intervals and tests; another seed moves them by less than they are wide."""


def number_items(instance_ids: Sequence[str]) -> NDArray[np.int64]:
    """Number items from 0 in alphabetical order. Shape: (photos,)."""
    return np.unique(np.asarray(instance_ids, dtype=np.str_), return_inverse=True)[1].astype(np.int64)


def score(
    codes: NDArray[np.int64], probs: NDArray[np.floating], items: NDArray[np.int64], num_bins: int
) -> dict[str, float | int]:
    """Score one task over its labelled photographs, and over items whose views are put together.

    Keys:
        n, accuracy, macro_f1, item_n, item_right, item_accuracy, nll, brier, ece; and for accuracy, macro_f1 and
        item_accuracy the ends `_ci_low`, `_ci_high` of 95 % intervals from drawing items.

    Shape:
        codes, items: (photos,), items numbered from 0; probs: (photos, labels)
    """
    labelled = codes != MISSING
    if not labelled.any():
        return {"n": 0, "item_n": 0}
    codes, probs = codes[labelled], probs[labelled]
    items = np.unique(items[labelled], return_inverse=True)[1].astype(np.int64)
    num_labels = probs.shape[1]
    confusions = item_confusions(codes, probs.argmax(axis=1), items, num_labels)
    drawn = bootstrap(confusions, SEED)
    row: dict[str, float | int] = {"n": len(codes)}
    for name, value in scores_of(confusions.sum(axis=0)).items():
        row |= {name: float(value), **_ends(name, drawn[name])}

    fused = fuse_views(probs, items).argmax(axis=1)
    of_items = item_codes(codes, items)
    whole = item_confusions(of_items, fused, np.arange(len(fused)), num_labels)
    right = int((fused == of_items)[of_items != MISSING].sum())
    row |= {"item_n": int((of_items != MISSING).sum()), "item_right": right}
    row |= {"item_accuracy": float(scores_of(whole.sum(axis=0))["accuracy"])}
    row |= _ends("item_accuracy", bootstrap(whole, SEED)["accuracy"])
    bins = reliability(codes, probs, num_bins)
    return row | {"nll": nll(codes, probs), "brier": brier(codes, probs), "ece": expected_calibration_error(bins)}


def _ends(name: str, draws: NDArray[np.float64]) -> dict[str, float]:
    low, high = interval(draws)
    return {f"{name}_ci_low": low, f"{name}_ci_high": high}


def compare(
    codes: NDArray[np.int64],
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    items: NDArray[np.int64],
) -> dict[str, float]:
    """Compare the accuracies of two systems on the same photographs, item by item.

    Keys:
        difference (first minus second), its 95 % interval `_ci_low`, `_ci_high`, and p_value of a sign-flip test

    Shape:
        codes, items: (photos,); first, second: (photos, labels)
    """
    labelled = codes != MISSING
    items = np.unique(items[labelled], return_inverse=True)[1]
    gain = (first.argmax(axis=1) == codes)[labelled].astype(np.float64) - (second.argmax(axis=1) == codes)[labelled]
    gains, counts = np.bincount(items, weights=gain), np.bincount(items)
    weights = draw_items(len(counts), SEED, DRAWS)
    low, high = interval((weights @ gains) / (weights @ counts))
    return {
        "difference": float(gains.sum() / counts.sum()),
        "difference_ci_low": low,
        "difference_ci_high": high,
        "p_value": sign_flip_test(gains.astype(np.float64), SEED),
    }


def mean_of(systems: Sequence[Mapping[str, NDArray[np.floating]]]) -> dict[str, NDArray[np.float32]]:
    """Average the probabilities of several systems, task by task: the ensemble. Shape: each (photos, labels)."""
    return {
        task: np.asarray(np.mean([probs[task] for probs in systems], axis=0, dtype=np.float64), dtype=np.float32)
        for task in systems[0]
    }


def with_interval(row: Mapping[str, Any], name: str) -> str:
    """Write a fraction and its interval in percent, such as "41.5 % [23, 60]"; nothing where there is none."""
    if name not in row or pd.isna(row[name]):
        return ""
    low, high = row[f"{name}_ci_low"], row[f"{name}_ci_high"]
    return f"{100 * row[name]:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"
