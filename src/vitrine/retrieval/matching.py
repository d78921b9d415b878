"""The rule that decides whether a hit counts as a match: fitted on val, evaluated on test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from vitrine.labels import CLASS_TASK
from vitrine.retrieval.index import Index, MatchRule

NUM_CUTOFFS = 200


def fit_match_rule(index: Index, table: pd.DataFrame) -> MatchRule:
    """Fit the least score of a match on val, and the curve from cosines to the probability of the same class.

    The least score maximizes F1 over all photographs of val and all queries for one label, or for a class and another
    label. The curve is a logistic regression over pairs of a val and a train photograph.

    Args:
        table: photos.csv, in the index's order.

    Source:
        Lipton et al., Optimal thresholding of classifiers to maximize F1 measure (2014); Platt (1999).
    """
    scores, relevant = scored_pairs(index, table, (table["split"] == "val").to_numpy())
    rule = MatchRule()
    if relevant.any():
        cutoffs = np.unique(np.quantile(scores[relevant], np.linspace(0, 1, NUM_CUTOFFS)))
        f1 = [
            2 * precision * recall / max(precision + recall, 1e-12)
            for precision, recall in (match_quality(scores, relevant, cutoff) for cutoff in cutoffs)
        ]
        rule = MatchRule(least_score=float(cutoffs[int(np.argmax(f1))]))
    val, train = ((table["split"] == split).to_numpy() for split in ("val", "train"))
    labels = table[CLASS_TASK].to_numpy()
    cosines = (index.embeddings[val] @ index.embeddings[train].T).ravel()
    same_class = (labels[val][:, None] == labels[train][None, :]).ravel()
    if same_class.all() or not same_class.any():
        return rule
    curve = LogisticRegression().fit(cosines[:, None], same_class)
    return MatchRule(rule.least_score, float(curve.coef_[0, 0]), float(curve.intercept_[0]))


def judge_matches(index: Index, table: pd.DataFrame) -> dict[str, float]:
    """Return the index's rule, and precision and recall of its word matches on the photographs of test."""
    pairs = scored_pairs(index, table, (table["split"] == "test").to_numpy())
    precision, recall = match_quality(*pairs, index.rule.least_score)
    return {**asdict(index.rule), "precision": precision, "recall": recall}


def match_quality(scores: NDArray[np.floating], relevant: NDArray[np.bool_], least_score: float) -> tuple[float, float]:
    """Return precision and recall of the pairs that reach the least score. Shape: each (pairs,)."""
    matched = scores >= least_score
    num_correct = int((matched & relevant).sum())
    return num_correct / max(int(matched.sum()), 1), num_correct / max(int(relevant.sum()), 1)


def scored_pairs(
    index: Index, table: pd.DataFrame, rows: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Score queries of one label, and of a class and another label, on the given photographs, with their relevance.

    Photographs that lack a label for one of the query's tasks are left out.

    Shape:
        rows: (photos,); returns: two of (pairs,)
    """
    scores, relevant = [], []
    for text, labels in _queries(index, table[rows]):
        known = rows.copy()
        answers = np.ones(len(table), dtype=bool)
        for task, label in labels.items():
            known &= table[task].notna().to_numpy()
            answers &= (table[task] == label).to_numpy()
        scores.append(index.and_scores(index.vocabulary.parse(text))[known])
        relevant.append(answers[known])
    return np.concatenate(scores), np.concatenate(relevant)


def _queries(index: Index, table: pd.DataFrame) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every query with a relevant photograph: its text, and the label of each of its tasks."""
    for task in index.label_space:
        for label in sorted(table[task].dropna().unique()):
            yield f"{task}:{label}", {task: label}
        if task != CLASS_TASK:
            pairs = table[[CLASS_TASK, task]].dropna().drop_duplicates().sort_values([CLASS_TASK, task])
            for class_label, label in pairs.itertuples(index=False):
                yield f"{task}:{label} class:{class_label}", {CLASS_TASK: class_label, task: label}
