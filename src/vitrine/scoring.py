"""The scores of one system on one task, by photograph and by item, with intervals; and comparisons of two systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
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


def number_items(instance_ids: Iterable[str]) -> NDArray[np.int64]:
    """Number items from 0 in alphabetical order. Shape: (photos,)."""
    return np.unique(np.array(list(instance_ids), dtype=np.str_), return_inverse=True)[1].astype(np.int64)


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


def score_all(
    systems: Mapping[str, Mapping[str, NDArray[np.floating]]],
    codes: Mapping[str, NDArray[np.int64]],
    items: NDArray[np.int64],
    num_bins: int,
) -> pd.DataFrame:
    """Score all systems on all tasks. Columns: system, task and the keys of `score`.

    Shape:
        systems[name][task]: (photos, labels); codes[task], items: (photos,)
    """
    return pd.DataFrame(
        [
            {"system": name, "task": task, **score(codes[task], probs[task], items, num_bins)}
            for name, probs in systems.items()
            for task in codes
        ]
    )


def compare_all(
    systems: Mapping[str, Mapping[str, NDArray[np.floating]]],
    codes: Mapping[str, NDArray[np.int64]],
    items: NDArray[np.int64],
) -> pd.DataFrame:
    """Compare all pairs of systems on all tasks. Columns: first, second, task and the keys of `compare`."""
    return pd.DataFrame(
        [
            {"first": a, "second": b, "task": task, **compare(codes[task], systems[a][task], systems[b][task], items)}
            for a, b in combinations(systems, 2)
            for task in codes
        ]
    )


def rate(right: NDArray[np.bool_ | np.floating], items: NDArray[np.int64]) -> dict[str, float | int]:
    """Return n, and the mean of what is right in each photograph as `accuracy`, with its interval from drawing items.

    Shape:
        right: (photos,), in [0, 1]; items: (photos,)
    """
    items = np.unique(items, return_inverse=True)[1]
    counts = np.bincount(items)
    drawn = draw_items(len(counts), SEED)
    shares = (drawn @ np.bincount(items, weights=right)) / (drawn @ counts)
    return {"n": len(right), "accuracy": float(right.mean()), **_ends("accuracy", shares)}


def named_rows(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Put a column `row` in front that names each row by some columns, so that plots have a bar for each."""
    names = table[list(columns)].astype(str).agg(", ".join, axis=1)
    return pd.concat([names.rename("row"), table], axis=1)


def with_interval(row: Mapping[str, Any], name: str) -> str:
    """Write a fraction and its interval in percent, such as "41.5 % [23, 60]"; nothing where there is none."""
    if name not in row or pd.isna(row[name]):
        return ""
    low, high = row[f"{name}_ci_low"], row[f"{name}_ci_high"]
    return f"{100 * row[name]:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"
