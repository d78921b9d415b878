"""The scores of one system on one task, by photograph and by item, with intervals; and comparisons of two systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vitrine.evaluation.resampling import count_interval, item_codes, item_confusions, item_interval, sign_flip_test
from vitrine.inference.calibration import brier, expected_calibration_error, nll, reliability
from vitrine.labels import CLASS_TASK, MISSING
from vitrine.predictions import fuse_views
from vitrine.scores import Counts, accuracy, balanced_accuracy, macro_f1

SEED = 13
"""Seed of random signs and orders; another seed changes a result by less than its noise."""

MIN_PHOTOS = 15
"""Minimum photographs of a label for any claim about it: three items with five views each."""


def number_items(instance_ids: Iterable[str]) -> NDArray[np.int64]:
    """Number items from 0 in alphabetical order. Shape: (photos,)."""
    return np.unique(np.array(list(instance_ids), dtype=np.str_), return_inverse=True)[1].astype(np.int64)


def score(
    codes: NDArray[np.int64], probs: NDArray[np.floating], items: NDArray[np.int64], num_bins: int
) -> dict[str, float | int]:
    """Score one task over its labeled photographs, and over items whose views are fused.

    Keys:
        n, accuracy, balanced_accuracy (mean recall of the labels that occur), macro_f1 (over labels that are true or
        predicted), item_n, item_right, item_accuracy, nll, brier, ece; and `_ci_low`, `_ci_high` of each accuracy and
        of macro_f1, the ends of 95 % intervals whose unit is the item

    Shape:
        codes, items: (photos,), items numbered from 0; probs: (photos, labels)
    """
    labeled = codes != MISSING
    if not labeled.any():
        return {"n": 0, "item_n": 0}
    codes, probs = codes[labeled], probs[labeled]
    items = np.unique(items[labeled], return_inverse=True)[1].astype(np.int64)
    confusions = item_confusions(codes, probs.argmax(axis=1), items, probs.shape[1])
    row: dict[str, float | int] = {"n": len(codes)}
    for name, measure in (("accuracy", accuracy), ("balanced_accuracy", balanced_accuracy), ("macro_f1", macro_f1)):
        row |= _measured(name, float(measure(confusions.sum(axis=0))), item_interval(measure, confusions))

    of_items = item_codes(codes, items)
    known = of_items != MISSING
    num, right = int(known.sum()), int((fuse_views(probs, items).argmax(axis=1) == of_items)[known].sum())
    row |= {"item_n": num, "item_right": right}
    if num:
        row |= _measured("item_accuracy", right / num, count_interval(right, num))
    bins = reliability(codes, probs, num_bins)
    return row | {"nll": nll(codes, probs), "brier": brier(codes, probs), "ece": expected_calibration_error(bins)}


def _measured(name: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {name: value, f"{name}_ci_low": interval[0], f"{name}_ci_high": interval[1]}


def _ratio(sums: Counts) -> NDArray[np.float64]:
    """Divide summed parts by summed wholes. Shape: (..., 2) -> (...)."""
    return np.asarray(sums[..., 0] / sums[..., 1], dtype=np.float64)


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
    labeled = codes != MISSING
    items = np.unique(items[labeled], return_inverse=True)[1]
    gain = (first.argmax(axis=1) == codes)[labeled].astype(np.float64) - (second.argmax(axis=1) == codes)[labeled]
    counts = np.stack([np.bincount(items, weights=gain), np.bincount(items)], axis=1)
    ends = item_interval(_ratio, counts, bounds=(-1.0, 1.0))
    row = _measured("difference", float(_ratio(counts.sum(axis=0))), ends)
    return row | {"p_value": sign_flip_test(counts[:, 0], SEED)}


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


def accuracy_with_interval(right: NDArray[np.bool_ | np.floating], items: NDArray[np.int64]) -> dict[str, float | int]:
    """Return n, and the mean of each photograph's correctness as `accuracy`, with its interval over items.

    Shape:
        right: (photos,), in [0, 1]; items: (photos,)
    """
    items = np.unique(items, return_inverse=True)[1]
    counts = np.stack([np.bincount(items, weights=right), np.bincount(items)], axis=1)
    return {"n": len(right), **_measured("accuracy", float(right.mean()), item_interval(_ratio, counts))}


def headline_metrics(scores: pd.DataFrame) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the metrics of a system that `dvc metrics show` compares, and their 95 % intervals.

    The accuracy of every task; for the class also `macro_f1`, and `items`: the share of items that are right when the
    probabilities of their views are combined.

    Args:
        scores: scores of one system: one row per task, with the keys of `score`.
    """
    rows = {row["task"]: row for row in scores.to_dict("records")}
    picked = {task: (row, "accuracy") for task, row in rows.items()}
    picked |= {"macro_f1": (rows[CLASS_TASK], "macro_f1"), "items": (rows[CLASS_TASK], "item_accuracy")}
    known = {name: (row, key) for name, (row, key) in picked.items() if not pd.isna(row.get(key, np.nan))}
    metrics = {name: float(row[key]) for name, (row, key) in known.items()}
    return metrics, {name: (row[f"{key}_ci_low"], row[f"{key}_ci_high"]) for name, (row, key) in known.items()}


def named_rows(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Prepend a column `row` that names each row by some columns, so that plots have a bar for each."""
    names = table[list(columns)].astype(str).agg(", ".join, axis=1)
    return pd.concat([names.rename("row"), table], axis=1)
