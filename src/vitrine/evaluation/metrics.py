"""Tables of the stage `evaluate`: scores of every system and label on val and test, calibration, mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.decomposition import PCA

from vitrine.evaluation.scoring import accuracy_with_interval, score
from vitrine.inference.calibration import (
    brier,
    coverage_curve,
    expected_calibration_error,
    is_confident,
    nll,
    reliability,
)
from vitrine.inference.systems import System, combine_members, system_predictions
from vitrine.labels import MISSING, LabelSpace
from vitrine.params import Section
from vitrine.predictions import Predictions
from vitrine.scores import confusion_counts, label_f1

Codes = Mapping[str, NDArray[np.int64]]
Probs = Mapping[str, NDArray[np.float32]]

ALL_TASKS = "all_tasks"
"""Name of the row in which a photograph is right only if all of its tasks are."""


class EvaluateParams(Section):
    """Evaluation settings."""

    sure_accuracy: Annotated[float, Field(gt=0, le=1)]
    calibration_bins: Annotated[int, Field(ge=1, le=50)]
    svm_c: Annotated[float, Field(gt=0)]
    num_confusions: Annotated[int, Field(ge=1, le=20)]


def majority_label(codes: NDArray[np.int64]) -> int:
    """Return the most frequent label of the training photographs; the first if tied. Shape: codes (photos,)."""
    return int(np.argmax(np.bincount(codes[codes != MISSING], minlength=1)))


def all_tasks_right(codes: Codes, probs: Probs) -> NDArray[np.bool_]:
    """Return whether all labeled tasks of each photograph are right. Shape: (photos,)."""
    right = [(codes[task] == MISSING) | (codes[task] == probs[task].argmax(axis=1)) for task in codes]
    return np.logical_and.reduce(right)


def score_table(
    name: str, codes: Codes, splits: NDArray[Any], items: NDArray[np.int64], probs: Probs, num_bins: int
) -> pd.DataFrame:
    """Return the scores of a system on val and test: one row per split and task, and one for all tasks at once.

    Columns:
        model, split, task, majority_accuracy (of always predicting the most common label of train; empty without
        labeled photographs), and the keys of `scoring.score`

    Shape:
        codes[task], splits, items: (photos,); probs[task]: (photos, labels)
    """
    rows: list[dict[str, Any]] = []
    train = splits == "train"
    for split in ("val", "test"):
        chosen = splits == split
        for task, values in codes.items():
            labeled = values[chosen & (values != MISSING)]
            majority = float((labeled == majority_label(values[train])).mean()) if len(labeled) else np.nan
            scores = score(values[chosen], probs[task][chosen], items[chosen], num_bins)
            rows.append({"model": name, "split": split, "task": task, "majority_accuracy": majority, **scores})
        right = all_tasks_right(codes, probs)[chosen]
        rows.append({"model": name, "split": split, "task": ALL_TASKS, **accuracy_with_interval(right, items[chosen])})
    return pd.DataFrame(rows)


def calibration_tables(
    codes: Codes,
    items: NDArray[np.int64],
    test: NDArray[np.bool_],
    raw: Mapping[str, Predictions],
    systems: Mapping[str, System],
    num_bins: int,
) -> dict[str, pd.DataFrame]:
    """Measure the effect of temperatures and thresholds on test.

    Args:
        raw: uncalibrated predictions of every network.

    Returns:
        reliability: model, task and the columns of `calibration.reliability`, after calibration
        coverage: model, task and the columns of `calibration.coverage_curve`, after calibration
        calibration: model, task, temperature, nll_before, nll_after, brier_before, brier_after, ece_before, ece_after,
        sure_threshold (empty if the task is unreliable), coverage (fraction of photographs with a sure answer),
        sure_items (items with such a photograph), sure_accuracy (of those photographs; empty if there are none)

    Shape:
        codes[task], items, test: (photos,)
    """
    tables: dict[str, list[pd.DataFrame]] = {"reliability": [], "coverage": [], "calibration": []}
    for name, system in systems.items():
        before, after = combine_members(name, systems, raw), system_predictions(name, systems, raw)
        for task, values in codes.items():
            labeled = test & (values != MISSING)
            true = values[labeled]
            row: dict[str, Any] = {"model": name, "task": task, "temperature": system.temperatures[task]}
            for when, probs in (("before", before.probs[task][labeled]), ("after", after.probs[task][labeled])):
                bins = reliability(true, probs, num_bins)
                row |= {f"nll_{when}": nll(true, probs), f"brier_{when}": brier(true, probs)}
                row[f"ece_{when}"] = expected_calibration_error(bins)
            curve = coverage_curve(true, probs)
            sure = is_confident(probs, system.sure_thresholds[task])
            right = (probs.argmax(axis=1) == true)[sure]
            threshold = system.sure_thresholds[task]
            row |= {"sure_threshold": np.nan if threshold is None else threshold}
            row |= {"coverage": sure.mean() if len(sure) else 0.0}
            row |= {"sure_items": len(np.unique(items[labeled][sure]))}
            row |= {"sure_accuracy": right.mean() if len(right) else np.nan}
            for kind, table in (("reliability", bins), ("coverage", curve), ("calibration", pd.DataFrame([row]))):
                tables[kind].append(table if kind == "calibration" else table.assign(model=name, task=task))
    return {kind: pd.concat(parts, ignore_index=True) for kind, parts in tables.items()}


def cost_table(costs: Mapping[str, Mapping[str, Any]], ensemble: System) -> pd.DataFrame:
    """Tabulate the cost of every network. Columns: model, the given costs, ensemble_tasks (with it as a member)."""
    tasks = {name: ", ".join(task for task, members in ensemble.members.items() if name in members) for name in costs}
    return pd.DataFrame([{"model": name, **cost, "ensemble_tasks": tasks[name]} for name, cost in costs.items()])


def per_label_table(label_space: LabelSpace, codes: Codes, predictions: Mapping[str, Predictions]) -> pd.DataFrame:
    """Return the scores of every label, 0 where undefined. Columns: model, task, label, precision, recall, f1, n."""
    tables = []
    for (name, prediction), (task, values) in product(predictions.items(), codes.items()):
        labels = label_space.labels[task]
        counts = confusion_counts(values, prediction.predicted(task), len(labels))
        right, support, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        columns = {"model": name, "task": task, "label": labels}
        shares = {"precision": right / np.maximum(predicted, 1), "recall": right / np.maximum(support, 1)}
        tables.append(pd.DataFrame({**columns, **shares, "f1": np.nan_to_num(label_f1(counts)), "n": support}))
    return pd.concat(tables, ignore_index=True)


def commonest_confusions(
    codes: NDArray[np.int64], probs: NDArray[np.float32], num: int
) -> list[tuple[int, int, NDArray[np.int64]]]:
    """Return the most frequently confused pairs of labels: true, predicted, and the mistakes, most confident first.

    Ties are ordered by label.

    Shape:
        codes: (photos,); probs: (photos, labels); each pair's mistakes: positions
    """
    predicted = probs.argmax(axis=1)
    wrong = np.flatnonzero((codes != MISSING) & (predicted != codes))
    wrong = wrong[np.argsort(-probs[wrong].max(axis=1), kind="stable")]
    pairs: dict[tuple[int, int], list[int]] = {}
    for row in wrong:
        pairs.setdefault((int(codes[row]), int(predicted[row])), []).append(int(row))
    commonest = sorted(pairs.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:num]
    return [(true, predicted_label, np.array(rows, dtype=np.int64)) for (true, predicted_label), rows in commonest]


def principal_components(embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project embeddings onto their first two principal components; also return their explained variance ratios.

    Shape:
        (photos, features) -> (photos, 2), (2,)
    """
    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform(embeddings.astype(np.float64))
    return np.asarray(points), np.asarray(pca.explained_variance_ratio_)
