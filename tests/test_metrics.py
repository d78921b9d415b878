"""Every score agrees with a case counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrine.labels import MISSING, LabelSpace
from vitrine.metrics import (
    all_tasks_right,
    calibration_tables,
    commonest_confusions,
    confusion_counts,
    headline,
    majority_label,
    per_label_table,
    principal_components,
    score_table,
    task_scores,
)
from vitrine.predictions import Predictions
from vitrine.systems import System

SPACE = LabelSpace({"class": ("a", "b", "c"), "color": ("x", "y")})


def probs(codes: list[int], labels: int = 3, sure: list[float] | None = None) -> np.ndarray:
    """Rows whose largest entry, `sure`, stands at the given code."""
    out = np.zeros((len(codes), labels), dtype=np.float32)
    for row, code in enumerate(codes):
        top = 0.9 if sure is None else sure[row]
        out[row] = (1 - top) / (labels - 1)
        out[row, code] = top
    return out


def predictions(classes: list[int], colours: list[int]) -> Predictions:
    paths = tuple(f"{row}.jpg" for row in range(len(classes)))
    values = {"class": probs(classes), "color": probs(colours, 2)}
    return Predictions(SPACE, paths, values, np.zeros((len(classes), 2), dtype=np.float32))


def test_task_scores_by_hand() -> None:
    codes = np.array([0, 0, 0, 1, 1, MISSING])
    scores = task_scores(codes, probs([0, 0, 1, 1, 2, 0]), majority=0)
    # a: precision 2/2, recall 2/3, F1 0.8; b: 1/2, 1/2, 0.5; c: never true, once predicted, 0.
    assert scores == {
        "n": 5,
        "accuracy": pytest.approx(3 / 5),
        "balanced_accuracy": pytest.approx((2 / 3 + 1 / 2) / 2),
        "macro_f1": pytest.approx((0.8 + 0.5 + 0.0) / 3),
        "weighted_f1": pytest.approx((3 * 0.8 + 2 * 0.5) / 5),
        "majority_accuracy": pytest.approx(3 / 5),
    }


def test_a_task_without_labels_has_no_scores() -> None:
    assert task_scores(np.array([MISSING, MISSING]), probs([0, 1]), majority=0) == {"n": 0}


def test_the_majority_label_leaves_out_missing_ones_and_takes_the_first_of_equals() -> None:
    assert majority_label(np.array([MISSING, MISSING, MISSING, 2, 1, 1, 2])) == 1
    assert majority_label(np.array([MISSING])) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), min_size=1, max_size=30), st.randoms())
def test_order_does_not_matter_and_scores_are_shares(pairs: list[tuple[int, int]], random: object) -> None:
    def scored(rows: list[tuple[int, int]]) -> dict[str, float | int]:
        return task_scores(np.array([true for true, _ in rows]), probs([said for _, said in rows]), majority=1)

    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert scored(pairs) == pytest.approx(scored(shuffled))
    assert all(0 <= value <= 1 for key, value in scored(pairs).items() if key != "n")


def test_all_tasks_are_right_only_together_and_missing_labels_do_not_spoil() -> None:
    codes = {"class": np.array([0, 1, 2, 0]), "color": np.array([1, 1, MISSING, 0])}
    assert all_tasks_right(codes, predictions([0, 1, 2, 1], [1, 0, 0, 0]).probs).tolist() == [True, False, True, False]


def test_score_table_and_headline_take_each_split_on_its_own() -> None:
    splits = np.array(["train", "train", "train", "val", "test", "test"])
    codes = {"class": np.array([1, 1, 0, 0, 1, 2]), "color": np.array([0, 0, 0, 1, MISSING, MISSING])}
    items = np.array([0, 0, 1, 2, 3, 4])
    found = predictions([0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]).probs
    table = score_table("m", codes, splits, items, found, num_bins=2)
    rows = table.set_index(["split", "task"])
    assert rows.loc[("val", "class"), "accuracy"] == 1.0
    assert rows.loc[("val", "class"), "majority_accuracy"] == 0.0  # train says b
    assert rows.loc[("test", "class"), "accuracy"] == 0.5
    assert rows.loc[("test", "class"), "majority_accuracy"] == 0.5
    assert rows.loc[("test", "all_tasks"), "accuracy"] == 0.5
    either = {"accuracy_ci_low": 0.0, "accuracy_ci_high": 1.0}  # two items, one right: any share can be drawn
    picked = headline(table)
    assert picked["m"]["class"] == {
        "n": 2,
        "item_n": 2,
        "accuracy": 0.5,
        "item_accuracy": 0.5,
        "macro_f1": pytest.approx(1 / 3),
        **either,
        "item_accuracy_ci_low": 0.0,
        "item_accuracy_ci_high": 1.0,
        "macro_f1_ci_low": 0.0,
        "macro_f1_ci_high": 1.0,
    }
    assert picked["m"]["color"] == {"n": 0}
    assert picked["m"]["all_tasks"] == {"n": 2, "accuracy": 0.5, **either}


def test_calibration_tables_by_hand() -> None:
    codes, test = {"class": np.array([0, 0, 1, 1])}, np.array([True, True, True, False])
    space = LabelSpace({"class": ("a", "b")})
    values = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]], dtype=np.float32)
    raw = {"m": Predictions(space, tuple("abcd"), {"class": values}, np.zeros((4, 1), dtype=np.float32))}
    tables = calibration_tables(codes, test, raw, {"m": System(("m",), {"class": 1.0}, {"class": 0.8})}, num_bins=1)
    row = tables["calibration"].iloc[0]
    assert row["nll_before"] == pytest.approx(-(np.log(0.9) + np.log(0.2) + np.log(0.6)) / 3)
    assert row["nll_after"] == pytest.approx(row["nll_before"])
    assert row["ece_after"] == pytest.approx((0.9 + 0.8 + 0.6) / 3 - 2 / 3)
    assert (row["coverage"], row["sure_accuracy"]) == pytest.approx((2 / 3, 1 / 2))  # 0.9 right, 0.8 wrong
    assert tables["coverage"]["accuracy"].tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert set(tables["reliability"]["n"]) == {3}
    softer = calibration_tables(codes, test, raw, {"m": System(("m",), {"class": 2.0}, {"class": 1.0})}, num_bins=1)
    row = softer["calibration"].iloc[0]
    assert row["nll_after"] != pytest.approx(row["nll_before"])
    assert row["coverage"] == 0 and np.isnan(row["sure_accuracy"])


def test_scores_of_every_label_by_hand() -> None:
    codes = {"class": np.array([0, 0, 1, MISSING])}
    table = per_label_table("m", SPACE, codes, predictions([0, 1, 1, 0], [0, 0, 0, 0])).set_index("label")
    assert list(table.columns) == ["model", "task", "precision", "recall", "f1", "n"]
    assert table.loc["a", ["precision", "recall", "n"]].tolist() == [1.0, 0.5, 2]
    assert table.loc["b", ["precision", "recall", "n"]].tolist() == [0.5, 1.0, 1]
    assert table.loc["c", ["precision", "recall", "f1", "n"]].tolist() == [0.0, 0.0, 0.0, 0]


def test_confusion_has_truth_in_rows() -> None:
    counts = confusion_counts(np.array([0, 0, 1, MISSING]), np.array([0, 2, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_the_commonest_confusions_come_first_and_in_them_the_surest_mistakes() -> None:
    codes = np.array([0, 0, 1, 2, 1, MISSING, 0])
    sure = [0.6, 0.9, 0.99, 0.8, 0.7, 0.9, 0.99]
    found = commonest_confusions(codes, probs([1, 1, 0, 0, 2, 1, 0], sure=sure), 3)
    assert [(true, said, rows.tolist()) for true, said, rows in found] == [(0, 1, [1, 0]), (1, 0, [2]), (1, 2, [4])]
    assert len(commonest_confusions(codes, probs([1, 1, 0, 0, 2, 1, 0], sure=sure), 1)) == 1


def test_principal_components_keep_the_two_widest_directions() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(200, 2)) * (10, 3)
    turned = np.hstack([wide, rng.normal(size=(200, 3)) * 0.1]) @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    points = principal_components(turned.astype(np.float32))
    assert np.abs(np.corrcoef(points[:, 0], wide[:, 0])[0, 1]) > 0.99
    assert np.abs(np.corrcoef(points[:, 1], wide[:, 1])[0, 1]) > 0.99
    assert np.array_equal(points, principal_components(turned.astype(np.float32)))
