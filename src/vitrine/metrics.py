"""Scores from label codes and probabilities: NumPy and scikit-learn alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from vitrine.labels import MISSING, LabelSpace
from vitrine.params import Section
from vitrine.predictions import Predictions

ALL_TASKS = "all_tasks"
"""Name of the row that asks for every task of a photograph to be right at once."""


class EvaluateParams(Section):
    """What to judge."""

    models: Annotated[list[str], Field(min_length=1)]
    num_mistakes: Annotated[int, Field(ge=1, le=60)]


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


def all_tasks_right(codes: Mapping[str, NDArray[np.int64]], predictions: Predictions) -> NDArray[np.bool_]:
    """Say of each photograph whether all tasks that it has labels for are right. Shape: (photos,)."""
    right = [(codes[task] == MISSING) | (codes[task] == predictions.predicted(task)) for task in codes]
    return np.logical_and.reduce(right)


def score_table(
    name: str, codes: Mapping[str, NDArray[np.int64]], splits: NDArray[Any], predictions: Predictions
) -> pd.DataFrame:
    """Return the scores of a model on val and test: one row per split and task, and one for all tasks at once.

    Columns:
        model, split, task, n, accuracy, balanced_accuracy, macro_f1, weighted_f1, majority_accuracy

    Shape:
        codes[task], splits: (photos,)
    """
    rows: list[dict[str, Any]] = []
    train = splits == "train"
    for split in ("val", "test"):
        chosen = splits == split
        for task, values in codes.items():
            scores = task_scores(values[chosen], predictions.probs[task][chosen], majority_label(values[train]))
            rows.append({"model": name, "split": split, "task": task, **scores})
        right = all_tasks_right(codes, predictions)[chosen]
        rows.append({"model": name, "split": split, "task": ALL_TASKS, "n": len(right), "accuracy": right.mean()})
    return pd.DataFrame(rows)


def headline(scores: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Pick the few numbers of the test split that `dvc metrics diff` compares: {model: {task: {metric: value}}}."""
    picked: dict[str, dict[str, dict[str, float]]] = {}
    for row in scores[scores["split"] == "test"].to_dict("records"):
        values = {key: row[key] for key in ("n", "accuracy", "macro_f1") if not pd.isna(row.get(key))}
        picked.setdefault(row["model"], {})[row["task"]] = values
    return picked


def per_label_table(
    name: str, label_space: LabelSpace, codes: Mapping[str, NDArray[np.int64]], predictions: Predictions
) -> pd.DataFrame:
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


def worst_mistakes(codes: NDArray[np.int64], probs: NDArray[np.float32], num: int) -> NDArray[np.int64]:
    """Return the positions of the most confident mistakes, the most confident first; ties in the given order.

    Shape:
        codes: (photos,); probs: (photos, labels); returns: at most (num,)
    """
    wrong = np.flatnonzero((codes != MISSING) & (probs.argmax(axis=1) != codes))
    return wrong[np.argsort(-probs[wrong].max(axis=1), kind="stable")][:num]


def principal_components(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Project embeddings on their first two principal components. Shape: (photos, features) -> (photos, 2)."""
    return np.asarray(PCA(n_components=2, svd_solver="full").fit_transform(embeddings.astype(np.float64)))
