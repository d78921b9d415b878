"""Accuracy and F1 match hand-computed cases and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from vitrine.labels import MISSING
from vitrine.scores import accuracy, balanced_accuracy, confusion_counts, label_f1, macro_f1


def test_true_labels_are_in_rows_and_unlabeled_photographs_do_not_count() -> None:
    counts = confusion_counts(np.array([0, 0, 1, MISSING]), np.array([0, 2, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_scores_match_hand_computed_cases() -> None:
    # a: precision 2/2, recall 2/3, F1 0.8; b: 1/2, 1/2, 0.5; c: never true, once predicted, 0; d: neither.
    counts = confusion_counts(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2]), 4)
    assert accuracy(counts) == pytest.approx(3 / 5)
    assert balanced_accuracy(counts) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert label_f1(counts) == pytest.approx([0.8, 0.5, 0.0, np.nan], nan_ok=True)
    assert macro_f1(counts) == pytest.approx((0.8 + 0.5 + 0.0) / 3)


def test_stacked_matrices_are_scored_separately_and_empty_ones_have_no_score() -> None:
    stack = np.array([[[1, 1], [0, 2]], [[0, 0], [0, 0]]])
    assert accuracy(stack) == pytest.approx([0.75, np.nan], nan_ok=True)
    assert balanced_accuracy(stack) == pytest.approx([0.75, np.nan], nan_ok=True)
    assert macro_f1(stack) == pytest.approx([(2 / 3 + 4 / 5) / 2, np.nan], nan_ok=True)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_scores_match_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.array(pairs).T
    counts = confusion_counts(true, predicted, 4)
    assert accuracy(counts) == pytest.approx(sklearn_metrics.accuracy_score(true, predicted))
    theirs = sklearn_metrics.f1_score(true, predicted, average="macro", zero_division=0)
    assert macro_f1(counts) == pytest.approx(theirs)
    recall = sklearn_metrics.recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0)
    assert balanced_accuracy(counts) == pytest.approx(recall)
