"""The tables behind evaluate: scores of every system on val and test, of every label, calibration, mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from vitrine.calibration import brier, coverage_curve, expected_calibration_error, nll, reliability
from vitrine.labels import CLASS_TASK, MISSING, LabelSpace
from vitrine.params import Section
from vitrine.predictions import Predictions
from vitrine.scoring import rate, score
from vitrine.systems import System, answer, mix

Codes = Mapping[str, NDArray[np.int64]]
Probs = Mapping[str, NDArray[np.float32]]

ALL_TASKS = "all_tasks"
"""Name of the row that asks for every task of a photograph to be right at once."""


class EvaluateParams(Section):
    """How to judge."""

    sure_accuracy: Annotated[float, Field(gt=0, le=1)]
    calibration_bins: Annotated[int, Field(ge=1, le=50)]
    svm_c: Annotated[float, Field(gt=0)]
    num_confusions: Annotated[int, Field(ge=1, le=20)]


def task_scores(codes: NDArray[np.int64], probs: NDArray[np.float32], majority: int) -> dict[str, float | int]:
    """Return the scores of one task over its labelled photographs, and those of always saying `majority`.

    Balanced accuracy is the mean recall of the labels that occur; macro F1 also counts labels that are only predicted.
    With no labelled photograph there is nothing but `n`.

    Shape:
        codes: (photos,), MISSING where unlabelled; probs: (photos, labels)
    """
    labelled = codes != MISSING
    true, predicted = codes[labelled], probs[labelled].argmax(axis=1)
    if not len(true):
        return {"n": 0}
    recalls = [float((predicted[true == label] == label).mean()) for label in np.unique(true)]
    return {
        "n": len(true),
        "accuracy": float((true == predicted).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(true, predicted, average="weighted", zero_division=0)),
        "majority_accuracy": float((true == majority).mean()),
    }


def majority_label(codes: NDArray[np.int64]) -> int:
    """Return the most frequent label of the training photographs; of equals, the first. Shape: codes (photos,)."""
    return int(np.argmax(np.bincount(codes[codes != MISSING], minlength=1)))


def all_tasks_right(codes: Codes, probs: Probs) -> NDArray[np.bool_]:
    """Say of each photograph whether all tasks that it has labels for are right. Shape: (photos,)."""
    right = [(codes[task] == MISSING) | (codes[task] == probs[task].argmax(axis=1)) for task in codes]
    return np.logical_and.reduce(right)


def score_table(
    name: str, codes: Codes, splits: NDArray[Any], items: NDArray[np.int64], probs: Probs, num_bins: int
) -> pd.DataFrame:
    """Return the scores of a system on val and test: one row per split and task, and one for all tasks at once.

    Columns:
        model, split, task, and the keys of `task_scores` and of `scoring.score`

    Shape:
        codes[task], splits, items: (photos,); probs[task]: (photos, labels)
    """
    rows: list[dict[str, Any]] = []
    train = splits == "train"
    for split in ("val", "test"):
        chosen = splits == split
        for task, values in codes.items():
            scores = task_scores(values[chosen], probs[task][chosen], majority_label(values[train]))
            intervals = score(values[chosen], probs[task][chosen], items[chosen], num_bins)
            rows.append({"model": name, "split": split, "task": task, **scores, **intervals})
        right = all_tasks_right(codes, probs)[chosen]
        rows.append({"model": name, "split": split, "task": ALL_TASKS, **rate(right, items[chosen])})
    return pd.DataFrame(rows)


def headline(scores: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Pick the few numbers of the test split that `dvc metrics diff` compares: {model: {task: {metric: value}}}.

    Accuracy and macro F1 with the ends of their intervals and the number of photographs; of the class also accuracy by
    item and the number of items.
    """
    picked: dict[str, dict[str, dict[str, float]]] = {}
    for row in scores[scores["split"] == "test"].to_dict("records"):
        names = ["accuracy", "macro_f1", *(["item_accuracy"] if row["task"] == CLASS_TASK else [])]
        keys = ["n", *(["item_n"] if row["task"] == CLASS_TASK else [])]
        keys += [f"{name}{end}" for name in names for end in ("", "_ci_low", "_ci_high")]
        values = {key: row[key] for key in keys if not pd.isna(row.get(key))}
        values |= {key: int(values[key]) for key in ("n", "item_n") if key in values}
        picked.setdefault(row["model"], {})[row["task"]] = values
    return picked


def calibration_tables(
    codes: Codes,
    test: NDArray[np.bool_],
    raw: Mapping[str, Predictions],
    systems: Mapping[str, System],
    num_bins: int,
) -> dict[str, pd.DataFrame]:
    """Say what the temperatures did on test, and what the thresholds mean there.

    Args:
        raw: uncalibrated predictions of every network.

    Returns:
        reliability: model, task and the columns of `calibration.reliability`, after calibration
        coverage: model, task and the columns of `calibration.coverage_curve`, after calibration
        calibration: model, task, temperature, nll_before, nll_after, brier_before, brier_after, ece_before, ece_after,
        sure_threshold, coverage (share of photographs above it), sure_accuracy (of those; empty if there are none)

    Shape:
        codes[task], test: (photos,)
    """
    tables: dict[str, list[pd.DataFrame]] = {"reliability": [], "coverage": [], "calibration": []}
    for name, system in systems.items():
        before, after = mix(name, systems, raw), answer(name, systems, raw)
        for task, values in codes.items():
            labelled = test & (values != MISSING)
            true = values[labelled]
            row: dict[str, Any] = {"model": name, "task": task, "temperature": system.temperatures[task]}
            for when, probs in (("before", before.probs[task][labelled]), ("after", after.probs[task][labelled])):
                bins = reliability(true, probs, num_bins)
                row |= {f"nll_{when}": nll(true, probs), f"brier_{when}": brier(true, probs)}
                row[f"ece_{when}"] = expected_calibration_error(bins)
            curve = coverage_curve(true, probs)
            sure = curve[curve["threshold"] >= system.sure_thresholds[task]]
            row |= {"sure_threshold": system.sure_thresholds[task]}
            row |= {"coverage": sure["coverage"].max() if len(sure) else 0.0}
            row |= {"sure_accuracy": sure["accuracy"].iloc[-1] if len(sure) else np.nan}
            for kind, table in (("reliability", bins), ("coverage", curve), ("calibration", pd.DataFrame([row]))):
                tables[kind].append(table if kind == "calibration" else table.assign(model=name, task=task))
    return {kind: pd.concat(parts, ignore_index=True) for kind, parts in tables.items()}


def per_label_table(name: str, label_space: LabelSpace, codes: Codes, predictions: Predictions) -> pd.DataFrame:
    """Return the scores of every label. Columns: model, task, label, precision, recall, f1, n (the support)."""
    tables = []
    for task, values in codes.items():
        labelled = values != MISSING
        labels = label_space.labels[task]
        precision, recall, f1, support = precision_recall_fscore_support(
            values[labelled], predictions.predicted(task)[labelled], labels=range(len(labels)), zero_division=0
        )
        columns = {"model": name, "task": task, "label": labels, "precision": precision, "recall": recall, "f1": f1}
        tables.append(pd.DataFrame({**columns, "n": support}))
    return pd.concat(tables, ignore_index=True)


def confusion_counts(codes: NDArray[np.int64], predicted: NDArray[np.int64], num_labels: int) -> NDArray[np.int64]:
    """Count pairs of true (rows) and predicted (columns) labels. Shape: (photos,) twice -> (labels, labels)."""
    labelled = codes != MISSING
    return np.asarray(confusion_matrix(codes[labelled], predicted[labelled], labels=range(num_labels)), dtype=np.int64)


def commonest_confusions(
    codes: NDArray[np.int64], probs: NDArray[np.float32], num: int
) -> list[tuple[int, int, NDArray[np.int64]]]:
    """Return the pairs of labels that are mixed up most often: true, predicted, and the mistakes, the surest first.

    Equally common pairs come in the order of their labels.

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
    return [(true, said, np.array(rows, dtype=np.int64)) for (true, said), rows in commonest]


def principal_components(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Project embeddings on their first two principal components. Shape: (photos, features) -> (photos, 2)."""
    return np.asarray(PCA(n_components=2, svd_solver="full").fit_transform(embeddings.astype(np.float64)))
