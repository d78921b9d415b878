"""Every score agrees with a case computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from vitrine.evaluation.metrics import (
    all_tasks_right,
    calibration_tables,
    commonest_confusions,
    majority_label,
    per_label_table,
    principal_components,
    score_table,
)
from vitrine.inference.systems import System
from vitrine.labels import MISSING, LabelSpace
from vitrine.predictions import Predictions

SPACE = LabelSpace({"class": ("a", "b", "c"), "color": ("x", "y")})


def probs(codes: list[int], labels: int = 3, sure: list[float] | None = None) -> np.ndarray:
    """Return rows whose largest entry, `sure`, is at the given code."""
    out = np.zeros((len(codes), labels), dtype=np.float32)
    for row, code in enumerate(codes):
        top = 0.9 if sure is None else sure[row]
        out[row] = (1 - top) / (labels - 1)
        out[row, code] = top
    return out


def predictions(classes: list[int], colors: list[int]) -> Predictions:
    paths = tuple(f"{row}.jpg" for row in range(len(classes)))
    values = {"class": probs(classes), "color": probs(colors, 2)}
    return Predictions(SPACE, paths, values, np.zeros((len(classes), 2), dtype=np.float32))


def test_the_majority_label_ignores_missing_labels_and_ties_go_to_the_first() -> None:
    assert majority_label(np.array([MISSING, MISSING, MISSING, 2, 1, 1, 2])) == 1
    assert majority_label(np.array([MISSING])) == 0


def test_all_tasks_must_be_right_and_missing_labels_are_ignored() -> None:
    codes = {"class": np.array([0, 1, 2, 0]), "color": np.array([1, 1, MISSING, 0])}
    assert all_tasks_right(codes, predictions([0, 1, 2, 1], [1, 0, 0, 0]).probs).tolist() == [True, False, True, False]


def test_the_score_table_treats_each_split_separately() -> None:
    splits = np.array(["train"] * 3 + ["val"] + ["test"] * 8)
    codes = {"class": np.array([1, 1, 0, 0, *[1, 1, 1, 1, 0, 0, 2, 2]]), "color": np.array([0] * 4 + [MISSING] * 8)}
    items = np.array([0, 0, 1, 2, *[3, 3, 4, 4, 5, 5, 6, 6]])
    found = predictions([0, 0, 0, 0, *[1, 1, 1, 1, 0, 1, 2, 2]], [0, 0, 0, 1, *[1] * 8]).probs
    rows = score_table("m", codes, splits, items, found, num_bins=2).set_index(["split", "task"])
    assert rows.loc[("val", "class"), ["accuracy", "majority_accuracy"]].tolist() == [1.0, 0.0]  # train: b
    assert rows.loc[("val", "color"), "majority_accuracy"] == 1.0
    of_class = rows.loc[("test", "class")]
    assert of_class[["n", "accuracy", "majority_accuracy"]].tolist() == [8, 7 / 8, 4 / 8]
    # a: precision 1, recall 1/2; b: 4/5, 1; c: 1, 1.
    assert of_class["macro_f1"] == pytest.approx((2 / 3 + 8 / 9 + 1) / 3)
    # Leaving out three quarters of one item, b of item 3 or 4: 2.5/3.5; a: 0.5/1.25; c: 0.5/0.5.
    without = [(2 / 3 + 2 * 2.5 / 6 + 1) / 3] * 2 + [(2 * 0.25 / 0.75 + 2 * 4 / 8.25 + 1) / 3, of_class["macro_f1"]]
    error = np.sqrt(((of_class["macro_f1"] - np.array(without)) ** 2).sum()) / 0.75
    half = stats.t.ppf(0.975, 3) * error / (of_class["macro_f1"] * (1 - of_class["macro_f1"]))
    ends = special.expit(special.logit(of_class["macro_f1"]) + np.array([-half, half]))
    assert of_class[["macro_f1_ci_low", "macro_f1_ci_high"]].tolist() == pytest.approx(ends.tolist())
    assert rows.loc[("test", "all_tasks"), ["n", "accuracy"]].tolist() == [8, 7 / 8]
    assert rows.loc[("test", "color"), "n"] == 0 and np.isnan(rows.loc[("test", "color"), "majority_accuracy"])


def test_calibration_tables_by_hand() -> None:
    codes, test = {"class": np.array([0, 0, 1, 1])}, np.array([True, True, True, False])
    space = LabelSpace({"class": ("a", "b")})
    values = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]], dtype=np.float32)
    raw = {"m": Predictions(space, tuple("abcd"), {"class": values}, np.zeros((4, 1), dtype=np.float32))}
    items = np.array([0, 1, 1, 2])
    sure_from = System({"class": ("m",)}, {"class": 1.0}, {"class": 0.8})
    tables = calibration_tables(codes, items, test, raw, {"m": sure_from}, num_bins=1)
    row = tables["calibration"].iloc[0]
    assert row["nll_before"] == pytest.approx(-(np.log(0.9) + np.log(0.2) + np.log(0.6)) / 3)
    assert row["nll_after"] == pytest.approx(row["nll_before"])
    assert row["ece_after"] == pytest.approx((0.9 + 0.8 + 0.6) / 3 - 2 / 3)
    assert (row["coverage"], row["sure_accuracy"]) == pytest.approx((2 / 3, 1 / 2))  # 0.9 right, 0.8 wrong
    assert (row["sure_threshold"], row["sure_items"]) == (0.8, 2)
    assert tables["coverage"]["accuracy"].tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert set(tables["reliability"]["n"]) == {3}
    unreliable = System({"class": ("m",)}, {"class": 2.0}, {"class": None})
    softer = calibration_tables(codes, items, test, raw, {"m": unreliable}, num_bins=1)
    row = softer["calibration"].iloc[0]
    assert row["nll_after"] != pytest.approx(row["nll_before"])
    assert (row["coverage"], row["sure_items"]) == (0, 0)
    assert np.isnan(row["sure_accuracy"]) and np.isnan(row["sure_threshold"])
    assert softer["calibration"]["sure_threshold"].dtype == np.float64  # an empty cell in CSV, other rows rounded


def test_scores_of_every_label_by_hand() -> None:
    codes = {"class": np.array([0, 0, 1, MISSING])}
    table = per_label_table(SPACE, codes, {"m": predictions([0, 1, 1, 0], [0, 0, 0, 0])}).set_index("label")
    assert list(table.columns) == ["model", "task", "precision", "recall", "f1", "n"]
    assert table.loc["a", ["precision", "recall", "n"]].tolist() == [1.0, 0.5, 2]
    assert table.loc["b", ["precision", "recall", "n"]].tolist() == [0.5, 1.0, 1]
    assert table.loc["c", ["precision", "recall", "f1", "n"]].tolist() == [0.0, 0.0, 0.0, 0]


def test_the_most_common_confusions_come_first_each_with_its_most_confident_mistakes() -> None:
    codes = np.array([0, 0, 1, 2, 1, MISSING, 0])
    sure = [0.6, 0.9, 0.99, 0.8, 0.7, 0.9, 0.99]
    found = commonest_confusions(codes, probs([1, 1, 0, 0, 2, 1, 0], sure=sure), 3)
    assert [(true, predicted, rows.tolist()) for true, predicted, rows in found] == [
        (0, 1, [1, 0]),
        (1, 0, [2]),
        (1, 2, [4]),
    ]
    assert len(commonest_confusions(codes, probs([1, 1, 0, 0, 2, 1, 0], sure=sure), 1)) == 1


def test_principal_components_keep_the_two_widest_directions() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(200, 2)) * (10, 3)
    turned = np.hstack([wide, rng.normal(size=(200, 3)) * 0.1]) @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    points, explained = principal_components(turned.astype(np.float32))
    assert np.abs(np.corrcoef(points[:, 0], wide[:, 0])[0, 1]) > 0.99
    assert np.abs(np.corrcoef(points[:, 1], wide[:, 1])[0, 1]) > 0.99
    assert np.array_equal(points, principal_components(turned.astype(np.float32))[0])
    spread = points.var(axis=0) / turned.var(axis=0).sum()
    np.testing.assert_allclose(explained, spread, rtol=1e-4)
