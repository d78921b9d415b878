"""Scores with intervals by photograph and by item, and comparisons of two systems."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrine.labels import MISSING
from vitrine.scoring import compare, named_rows, number_items, rate, score, with_interval


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
    # Two items drawn with replacement: both item 1 has accuracy 0, both item 0 has 2/3.
    assert (row["accuracy_ci_low"], row["accuracy_ci_high"]) == pytest.approx((0, 2 / 3))
    assert row["nll"] == pytest.approx(-(2 * np.log(0.9) + 3 * np.log(0.1)) / 5)
    assert row["ece"] == pytest.approx(0.5)


def test_items_numbered_with_gaps_do_not_matter() -> None:
    codes, probs = np.array([0, 1, 1]), one_hot([0, 1, 0])
    assert score(codes, probs, np.array([0, 1, 2]), 2) == score(codes, probs, np.array([4, 9, 70]), 2)


def test_nothing_labelled_has_no_scores() -> None:
    assert score(np.array([MISSING]), one_hot([0]), np.array([0]), 2) == {"n": 0, "item_n": 0}


def test_a_comparison_by_hand() -> None:
    codes, items = np.zeros(4, dtype=np.int64), np.array([0, 0, 1, 2])
    found = compare(codes, one_hot([0, 0, 0, 1]), one_hot([1, 1, 0, 1]), items)
    assert found["difference"] == pytest.approx(2 / 4)  # two photographs more are right, both of item 0
    assert found["p_value"] == 1.0  # one item that differs can be by chance
    assert found["difference_ci_low"] == 0.0
    back = compare(codes, one_hot([1, 1, 0, 1]), one_hot([0, 0, 0, 1]), items)
    assert back["difference"] == -found["difference"] and back["difference_ci_high"] == 0.0


def test_items_of_many_photographs_weigh_more_and_a_difference_stays_a_share() -> None:
    codes, items = np.zeros(4, dtype=np.int64), np.array([0, 0, 0, 1])
    found = compare(codes, one_hot([0, 0, 0, 0]), one_hot([1, 1, 1, 0]), items)
    assert found["difference"] == pytest.approx(3 / 4)
    assert (found["difference_ci_low"], found["difference_ci_high"]) == (0.0, 1.0)  # item 1 twice, item 0 twice


def test_a_clear_difference_is_found_and_none_is_not() -> None:
    codes, items = np.zeros(60, dtype=np.int64), np.repeat(np.arange(20), 3)
    good, bad = one_hot([0] * 60), one_hot([1] * 45 + [0] * 15)
    assert compare(codes, good, bad, items)["p_value"] < 0.001
    assert compare(codes, good, good, items)["p_value"] == 1.0


def test_a_rate_by_hand() -> None:
    # Two items: 3 of 4 views right, and 0 of 2. Drawn twice: 3/4, 0 or 3/6.
    row = rate(np.array([True, True, True, False, False, False]), np.array([5, 5, 5, 5, 9, 9]))
    assert row["n"] == 6 and row["accuracy"] == 0.5
    assert (row["accuracy_ci_low"], row["accuracy_ci_high"]) == (0.0, 0.75)


def test_intervals_in_words() -> None:
    row = {"accuracy": 0.4149, "accuracy_ci_low": 0.2251, "accuracy_ci_high": 0.6, "empty": float("nan")}
    assert with_interval(row, "accuracy") == "41.5 % [23, 60]"
    assert with_interval(row, "empty") == "" and with_interval(row, "absent") == ""


def test_rows_are_named_by_columns() -> None:
    table = named_rows(pd.DataFrame({"task": ["class", "class"], "n": [1, 2], "x": [0.5, 0.6]}), "task", "n")
    assert table["row"].tolist() == ["class, 1", "class, 2"] and next(iter(table.columns)) == "row"
