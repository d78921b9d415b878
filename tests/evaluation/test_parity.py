"""The parity gate detects changed labels, logits and embeddings, and values that are not numbers."""

from __future__ import annotations

import numpy as np
import pytest

from vitrine.evaluation.parity import cosine_loss, faults, novelty_differences, prediction_differences
from vitrine.labels import MISSING

REFERENCE = {"class": np.array([[0.7, 0.2, 0.1], [0.4, 0.40001, 0.19999], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]])}
CODES = {"class": np.array([0, 1, 2, MISSING])}


def test_equal_predictions_have_no_differences() -> None:
    found = prediction_differences(REFERENCE, REFERENCE, CODES, 0.0)
    assert set(found.values()) == {0.0}
    assert list(found) == ["logit_difference", "changed_class", "changed", "nll_increase", "ece_increase"]
    assert faults("fp32", found) == []


def test_a_changed_label_counts_unless_it_was_a_tie() -> None:
    other = {"class": np.array([[0.7, 0.2, 0.1], [0.40001, 0.4, 0.19999], [0.1, 0.1, 0.8], [0.3, 0.5, 0.2]])}
    assert prediction_differences(REFERENCE, other, CODES, 0.0)["changed_class"] == 0.5
    assert prediction_differences(REFERENCE, other, CODES, 1e-4)["changed_class"] == 0.25


def test_differences_by_hand() -> None:
    other = {"class": np.array([[0.6, 0.3, 0.1], *REFERENCE["class"][1:]])}
    found = prediction_differences(REFERENCE, other, CODES, 0.0)
    before, after = np.log([0.7, 0.2, 0.1]), np.log([0.6, 0.3, 0.1])
    expected = np.abs((after - after.mean()) - (before - before.mean())).max()
    assert found["logit_difference"] == pytest.approx(expected)
    assert found["nll_increase"] == pytest.approx((np.log(0.7) - np.log(0.6)) / 3)
    assert faults("bf16", {**found, "cosine_loss": 0.0, "map_loss": 0.006}) == [
        "nll_increase 0.05138, at most 0.01",
        "map_loss 0.006, at most 0.005",
    ]


def test_the_worst_task_counts() -> None:
    reference, codes = {**REFERENCE, "color": REFERENCE["class"]}, {**CODES, "color": CODES["class"]}
    found = prediction_differences(reference, {**reference, "color": REFERENCE["class"][:, ::-1]}, codes, 0.0)
    assert found["changed_class"] == 0 and found["changed"] == found["changed_color"] == 0.75


def test_nan_never_passes() -> None:
    broken = {"class": np.full((4, 3), np.nan)}
    found = prediction_differences(REFERENCE, broken, CODES, 0.0)
    found["cosine_loss"] = cosine_loss(np.ones((2, 3)), np.full((2, 3), np.nan))
    for precision in ("fp32", "bf16", "int8"):
        assert faults(precision, {**found, "map_loss": 0.0}), precision


def test_a_reference_that_is_not_finite_never_passes() -> None:
    broken = {"class": np.full((4, 3), np.nan)}
    assert prediction_differences(broken, REFERENCE, CODES, 0.0)["changed"] == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_in_either_embedding_is_an_infinite_loss(value: float) -> None:
    embeddings = np.array([[1.0, 0.0], [0.0, 2.0]])
    broken = embeddings.copy()
    broken[0, 0] = value
    assert cosine_loss(embeddings, broken) == np.inf
    assert cosine_loss(broken, embeddings) == np.inf
    assert cosine_loss(broken, broken) == np.inf


def test_the_smallest_cosine_counts() -> None:
    embeddings = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    assert cosine_loss(embeddings, 5 * embeddings) == pytest.approx(0, abs=1e-12)
    assert cosine_loss(embeddings, np.array([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])) == pytest.approx(1)


def test_a_task_with_one_label_cannot_change() -> None:
    certain = {"class": np.ones((4, 1))}
    assert prediction_differences(certain, certain, {"class": np.zeros(4, dtype=np.int64)}, 0.0)["changed"] == 0


def test_novelty_is_compared_by_refusals_and_by_the_score_of_the_graph() -> None:
    reference, threshold = np.array([0.1, 0.5, 0.50001, 0.9]), 0.5
    found = novelty_differences(
        reference, reference + np.array([0, 0.02, -0.02, 0]), threshold, reference + np.array([0, 0, 0, 0.001])
    )
    assert found == {"refusals_changed": 0.0, "novelty_difference": pytest.approx(0.002)}, "both are at the threshold"
    found = novelty_differences(reference, np.array([0.6, 0.5, 0.6, 0.9]), threshold, None)
    assert found == {"refusals_changed": 0.25, "novelty_difference": 0.0}
    assert novelty_differences(reference, reference, threshold, reference * np.nan)["novelty_difference"] == np.inf
    accepted, broken = np.array([0.1, 0.2]), np.array([0.1, np.nan])
    assert novelty_differences(accepted, broken, threshold, None)["refusals_changed"] == 0.5
    assert novelty_differences(broken, accepted, threshold, None)["refusals_changed"] == 0.5
