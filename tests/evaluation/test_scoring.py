"""Scores with intervals by photograph and by item, and comparisons of two systems."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from vitrine.evaluation.scoring import (
    accuracy_with_interval,
    compare,
    headline_metrics,
    named_rows,
    number_items,
    score,
)
from vitrine.labels import MISSING


def one_hot(predicted: list[int], num_labels: int = 2, sure: float = 0.9) -> np.ndarray:
    probs = np.full((len(predicted), num_labels), (1 - sure) / (num_labels - 1))
    probs[np.arange(len(predicted)), predicted] = sure
    return probs


def test_items_are_numbered_alphabetically() -> None:
    assert number_items(["b", "a", "b", "c"]).tolist() == [1, 0, 1, 2]


def test_a_score_by_hand() -> None:
    # Item 0: views right, right, wrong; item 1: both wrong; item 2 has no label.
    codes = np.array([0, 0, 0, 1, 1, MISSING])
    items = np.array([0, 0, 0, 1, 1, 2])
    row = score(codes, one_hot([0, 0, 1, 0, 0, 0]), items, num_bins=2)
    assert row["n"] == 5 and row["accuracy"] == pytest.approx(2 / 5)
    assert row["macro_f1"] == pytest.approx((2 * 2 / (3 + 4) + 0) / 2)
    assert (row["item_n"], row["item_right"], row["item_accuracy"]) == (2, 1, 0.5)
    assert row["balanced_accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    # Without 3/4 of item 0: 0.5/2.75; without 3/4 of item 1: 2/3.5.
    error = np.hypot(2 / 5 - 0.5 / 2.75, 2 / 5 - 2 / 3.5) / 0.75
    half = stats.t.ppf(0.975, 1) * error / (2 / 5 * 3 / 5)
    ends = special.expit(np.log(2 / 3) + np.array([-half, half]))
    assert (row["accuracy_ci_low"], row["accuracy_ci_high"]) == pytest.approx(tuple(ends))
    assert (row["item_accuracy_ci_low"], row["item_accuracy_ci_high"]) == pytest.approx((0.01258, 0.98742), abs=1e-5)
    assert row["nll"] == pytest.approx(-(2 * np.log(0.9) + 3 * np.log(0.1)) / 5)
    assert row["ece"] == pytest.approx(0.5)


def test_a_perfect_score_has_an_interval() -> None:
    codes, items = np.repeat([0, 1], 50), np.repeat(np.arange(20), 5)
    row = score(codes, one_hot(codes.tolist()), items, 2)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "item_accuracy"):
        assert (row[name], row[f"{name}_ci_high"]) == (1.0, 1.0)
        assert row[f"{name}_ci_low"] == pytest.approx(0.025 ** (1 / 20)), name


def test_items_with_several_labels_have_no_accuracy() -> None:
    row = score(np.array([0, 1]), one_hot([0, 1]), np.array([0, 0]), 2)
    assert row["item_n"] == row["item_right"] == 0 and "item_accuracy" not in row
    assert set(headline_metrics(pd.DataFrame([{"task": "class", **row}]))[0]) == {"class", "macro_f1"}


def test_gaps_in_item_numbers_do_not_matter() -> None:
    codes, probs = np.array([0, 1, 1]), one_hot([0, 1, 0])
    assert score(codes, probs, np.array([0, 1, 2]), 2) == score(codes, probs, np.array([4, 9, 70]), 2)


def test_unlabeled_photographs_have_no_scores() -> None:
    assert score(np.array([MISSING]), one_hot([0]), np.array([0]), 2) == {"n": 0, "item_n": 0}


def test_a_comparison_by_hand() -> None:
    codes, items = np.zeros(4, dtype=np.int64), np.array([0, 0, 1, 2])
    found = compare(codes, one_hot([0, 0, 0, 1]), one_hot([1, 1, 0, 1]), items)
    assert found["difference"] == pytest.approx(2 / 4)  # two more photographs are right, both of item 0
    assert found["p_value"] == 1.0  # a difference in one item can be due to chance
    assert found["difference_ci_low"] < 0 < found["difference_ci_high"] < 1
    back = compare(codes, one_hot([1, 1, 0, 1]), one_hot([0, 0, 0, 1]), items)
    assert back["difference"] == -found["difference"]
    assert back["difference_ci_high"] == pytest.approx(-found["difference_ci_low"])


def test_items_with_more_photographs_have_more_weight_and_differences_stay_below_one() -> None:
    codes, items = np.zeros(4, dtype=np.int64), np.array([0, 0, 0, 1])
    found = compare(codes, one_hot([0, 0, 0, 0]), one_hot([1, 1, 1, 0]), items)
    assert found["difference"] == pytest.approx(3 / 4)
    assert -1 < found["difference_ci_low"] < 0 < 3 / 4 < found["difference_ci_high"] < 1


def test_equal_systems_may_differ_on_other_items() -> None:
    codes, items = np.zeros(40, dtype=np.int64), np.repeat(np.arange(20), 2)
    found = compare(codes, one_hot([0] * 40), one_hot([0] * 40), items)
    assert found["difference"] == 0
    assert found["difference_ci_high"] == pytest.approx(-found["difference_ci_low"]) == 1 - 0.025 ** (1 / 20)


def test_a_clear_difference_is_significant_and_no_difference_is_not() -> None:
    codes, items = np.zeros(60, dtype=np.int64), np.repeat(np.arange(20), 3)
    good, bad = one_hot([0] * 60), one_hot([1] * 45 + [0] * 15)
    assert compare(codes, good, bad, items)["p_value"] < 0.001
    assert compare(codes, good, good, items)["p_value"] == 1.0


def test_a_rate_by_hand() -> None:
    # Two items: 3 of 4 views right, and 0 of 2. Without 3/4 of the first: 0.75/3; of the second: 3/4.5.
    row = accuracy_with_interval(np.array([True, True, True, False, False, False]), np.array([5, 5, 5, 5, 9, 9]))
    assert row["n"] == 6 and row["accuracy"] == 0.5
    half = stats.t.ppf(0.975, 1) * np.hypot(1 / 4, 1 / 6) / 0.75 / 0.25
    ends = special.expit(np.array([-half, half]))
    assert (row["accuracy_ci_low"], row["accuracy_ci_high"]) == pytest.approx(tuple(ends))


def test_headline_metrics_are_accuracies_and_macro_f1_and_item_accuracy_of_the_class() -> None:
    row = score(np.array([0, 1]), one_hot([0, 0]), np.array([0, 1]), 2)
    metrics, intervals = headline_metrics(pd.DataFrame([{"task": task, **row} for task in ("class", "color")]))
    assert set(metrics) == set(intervals) == {"class", "color", "macro_f1", "items"}
    assert metrics["class"] == metrics["color"] == metrics["items"] == 0.5 and metrics["macro_f1"] == row["macro_f1"]
    assert intervals["items"] == (row["item_accuracy_ci_low"], row["item_accuracy_ci_high"])


def test_rows_are_named_by_columns() -> None:
    table = named_rows(pd.DataFrame({"task": ["class", "class"], "n": [1, 2], "x": [0.5, 0.6]}), "task", "n")
    assert table["row"].tolist() == ["class, 1", "class, 2"] and next(iter(table.columns)) == "row"
