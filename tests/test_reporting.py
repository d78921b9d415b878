"""The report says what the numbers say, and no more."""

from __future__ import annotations

from math import comb

import pandas as pd
import pytest

from vitrine.reporting import ReportData, compare_items, markdown_table, percent, write_report


def report_data(first: list[float], second: list[float], small: str = "b") -> ReportData:
    """Two models, a and b, with the given shares of right views for every test item."""
    scores = [
        {"model": model, "split": split, "task": task, "n": 53, "accuracy": accuracy, "balanced_accuracy": 0.31,
         "macro_f1": 0.41, "weighted_f1": 0.51, "majority_accuracy": 0.111}
        for model, accuracy in (("a", 0.8123), ("b", 0.7456)) for split in ("val", "test") for task in ("class", "tone")
    ]  # fmt: skip
    scores += [
        {"model": m, "split": s, "task": "all_tasks", "n": 53, "accuracy": 0.25} for m in "ab" for s in ("val", "test")
    ]
    labels = [
        {"model": m, "task": t, "label": "odd|cup", "precision": 0.123, "recall": 0.5, "f1": 0.2, "n": 9}
        for m in "ab" for t in ("class", "tone")
    ]  # fmt: skip
    cost = [
        {"model": m, "architecture": f"net_{m}", "image_size_px": 112,
         "parameters": 1_230_000 if m == small else 5_570_000, "checkpoint_bytes": 4_700_000,
         "flops": 570_000_000} for m in "ab"
    ]  # fmt: skip
    retrieval = [
        {"model": m, "num_terms": t, "num_queries": 17, "k": 4, "precision_at_k": 0.333,
         "random_precision_at_k": 0.048}
        for m in "ab" for t in (0, 1)
    ]  # fmt: skip
    return ReportData(
        counts={"photos": {"train": 40, "val": 9, "test": 53}, "items": {"train": 8, "val": 2, "test": 11},
                "labels": {"class": 2, "tone": 3}, "missing": {"class": 0, "tone": 5}},
        scores=pd.DataFrame(scores),
        per_label=pd.DataFrame(labels),
        cost=pd.DataFrame(cost),
        retrieval=pd.DataFrame(retrieval),
        near_duplicates=pd.DataFrame({"image_path_a": ["x", "y"]}),
        right=pd.DataFrame({"a": first, "b": second}),
    )  # fmt: skip


def test_numbers_stand_in_the_report() -> None:
    text = write_report(report_data([1.0, 0.4], [0.6, 0.4]))
    for shown in (
        "81.2 %",
        "74.6 %",
        "11.1 %",
        "1.23 M",
        "5.57 M",
        "4.7 MB",
        "0.57 G",
        "33.3 %",
        "4.8 %",
        "precision@4",
    ):
        assert shown in text, shown
    assert "| odd\\|cup | 9 | 12.3 % | 50.0 % | 20.0 % |" in text
    assert "tone 5" in text
    assert "near duplicates across splits: 2" in text
    assert "nan" not in text
    assert write_report(report_data([1.0, 0.4], [0.6, 0.4])) == text


def test_no_winner_is_named_without_evidence() -> None:
    text = write_report(report_data([1.0] * 5 + [0.0], [0.5] * 6))  # 5 to 1: p = 0.22
    assert "a cannot be told from b" in text
    assert "p = 0.22" in text
    assert "Take **b**, the smallest: that a is better cannot be shown" in text


def test_a_winner_is_named_with_evidence() -> None:
    text = write_report(report_data([1.0] * 8, [0.5] * 8))  # 8 to 0: p = 0.008
    assert "a is better than b" in text
    assert "Take **a** for quality, and **b** where size counts" in text
    assert "it scores best and is the smallest" in write_report(report_data([1.0] * 8, [0.5] * 8, small="a"))


@pytest.mark.parametrize(("wins", "losses"), [(5, 1), (8, 0), (3, 3), (0, 0)])
def test_the_sign_test_by_hand(wins: int, losses: int) -> None:
    first = pd.Series([1.0] * wins + [0.0] * losses + [0.5] * 4)
    found = compare_items(first, pd.Series([0.5] * len(first)))
    n = wins + losses
    tail = sum(comb(n, k) for k in range(max(wins, losses), n + 1)) / 2**n
    assert found == (wins, losses, pytest.approx(min(1.0, 2 * tail)))


def test_tables_and_percentages() -> None:
    assert percent(0.12345) == "12.3 %"
    assert percent(float("nan")) == ""
    assert markdown_table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
