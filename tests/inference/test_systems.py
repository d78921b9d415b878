"""Systems are calibrated on val only, and the ensemble after averaging."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitrine.artifacts import ArtifactError
from vitrine.inference.calibration import is_confident
from vitrine.inference.systems import (
    System,
    best_members,
    combine_members,
    ensemble_probs,
    fit_systems,
    load_systems,
    save_systems,
    system_predictions,
)
from vitrine.labels import MISSING, LabelSpace
from vitrine.predictions import Predictions

SPACE = LabelSpace({"class": ("a", "b")})


def raw(confidences: list[float], feature: float = 3.0) -> Predictions:
    """Return predictions of label a with the given confidences."""
    probs = np.array([[c, 1 - c] for c in confidences], dtype=np.float32)
    return Predictions(SPACE, tuple(str(k) for k in range(len(probs))), {"class": probs},
                       np.full((len(probs), 1), feature, dtype=np.float32))  # fmt: skip


def test_the_ensemble_is_the_mean() -> None:
    np.testing.assert_allclose(
        ensemble_probs([np.array([[0.2, 0.8]]), np.array([[0.6, 0.4]])]), [[0.4, 0.6]], rtol=1e-6
    )


def test_the_ensemble_has_the_best_combination_of_members() -> None:
    codes = np.array([0, 0, 1, 1] * 10)
    sure, unsure = np.array([[0.9, 0.1]]), np.array([[0.6, 0.4]])
    right = np.where(codes[:, None] == 0, sure, sure[:, ::-1])
    half = np.arange(40)[:, None] < 20
    # Each is confident and right on one half.
    probs = {"first": np.where(half, right, unsure), "second": np.where(half, unsure, right)}
    probs["never"] = right[:, ::-1]
    assert best_members(probs, codes) == ("first", "second")
    assert best_members({"first": probs["first"], "never": probs["never"]}, codes) == ("first",)
    assert best_members({"first": probs["first"], "twin": probs["first"]}, codes) == ("first",)
    assert best_members(probs, np.full(40, MISSING)) == ("first",)


def test_an_ensemble_of_one_network_predicts_as_that_network() -> None:
    codes, val = {"class": np.array([0] * 9 + [1])}, np.ones(10, dtype=bool)
    predictions = {"wrong": raw([0.1] * 10), "right": raw([0.9] * 10)}
    systems = fit_systems(predictions, codes, np.arange(10), val, sure_accuracy=0.6)
    assert systems["ensemble"].members == {"class": ("right",)}
    assert systems["ensemble"].networks == ("right",)
    alone, ensemble = (system_predictions(name, systems, predictions).probs["class"] for name in ("right", "ensemble"))
    np.testing.assert_allclose(ensemble, alone, atol=1e-4)


def test_temperatures_calibrate_val_and_ignore_other_photographs() -> None:
    # On the 80 items of val, networks of confidence 0.95 are right 3 times in 4; elsewhere they are always wrong.
    codes = {"class": np.array([0, 0, 0, 1] * 20 + [1] * 60)}
    items, val = np.arange(140), np.arange(140) < 80
    predictions = {"one": raw([0.95] * 140), "two": raw([0.95] * 140, feature=-2.0)}
    systems = fit_systems(predictions, codes, items, val, sure_accuracy=0.6)
    assert list(systems) == ["one", "two", "ensemble"]
    for name in systems:
        calibrated = system_predictions(name, systems, predictions).probs["class"][0, 0]
        assert calibrated == pytest.approx(0.75, abs=0.01)
        assert systems[name].sure_thresholds["class"] == pytest.approx(0.75, abs=0.01)
    # The members of the ensemble are already calibrated.
    assert systems["ensemble"].temperatures["class"] == pytest.approx(1.0, abs=0.02)
    assert fit_systems(predictions, codes, items, val, sure_accuracy=0.7)["one"].sure_thresholds == {"class": None}
    assert fit_systems(predictions, codes, items % 20, val, sure_accuracy=0.6)["one"].sure_thresholds == {"class": None}


def test_photographs_at_the_threshold_still_reach_it_after_saving(tmp_path: Path) -> None:
    confidence = np.random.default_rng(0).uniform(0.9, 0.99, 40).tolist()
    codes, val = {"class": np.zeros(40, dtype=np.int64)}, np.ones(40, dtype=bool)
    predictions = {"one": raw(confidence)}
    save_systems(tmp_path / "systems.json", fit_systems(predictions, codes, np.arange(40), val, 0.9))
    systems = load_systems(tmp_path / "systems.json")
    sure = is_confident(
        system_predictions("one", systems, predictions).probs["class"], systems["one"].sure_thresholds["class"]
    )
    assert sure.all()


def test_every_task_has_its_own_members() -> None:
    space = LabelSpace({"class": ("a", "b"), "color": ("x", "y")})
    right, wrong = np.tile(np.float32([[0.9, 0.1]]), (20, 1)), np.tile(np.float32([[0.1, 0.9]]), (20, 1))
    names, embeddings = tuple(map(str, range(20))), np.ones((20, 1), np.float32)
    predictions = {
        "of_class": Predictions(space, names, {"class": right, "color": wrong}, embeddings),
        "of_color": Predictions(space, names, {"class": wrong, "color": right}, embeddings),
    }
    codes = {task: np.array([0] * 18 + [1] * 2) for task in space}
    systems = fit_systems(predictions, codes, np.arange(20), np.ones(20, dtype=bool), 0.6)
    assert systems["ensemble"].members == {"class": ("of_class",), "color": ("of_color",)}
    assert systems["ensemble"].networks == ("of_class", "of_color")
    found = system_predictions("ensemble", systems, predictions)
    assert (found.predicted("class") == 0).all() and (found.predicted("color") == 0).all()
    assert found.embeddings.shape == (20, 2)


def test_one_network_has_no_ensemble() -> None:
    codes, val = {"class": np.array([0, 1])}, np.array([True, True])
    assert list(fit_systems({"one": raw([0.6, 0.7])}, codes, np.arange(2), val, 0.9)) == ["one"]


def test_embeddings_of_the_ensemble_have_the_mean_cosine() -> None:
    rng = np.random.default_rng(0)
    parts = {}
    for name in ("one", "two"):
        part = raw([0.6, 0.7])
        parts[name] = Predictions(SPACE, part.image_paths, part.probs, rng.normal(size=(2, 3)).astype(np.float32))
    plain = {name: System({"class": (name,)}, {"class": 1.0}, {"class": 1.0}) for name in parts}
    both = combine_members(
        "ensemble", {**plain, "ensemble": System({"class": ("one", "two")}, {"class": 1.0}, {"class": 1.0})}, parts
    )

    def cosine(e: np.ndarray) -> float:
        return float(e[0] @ e[1] / np.linalg.norm(e[0]) / np.linalg.norm(e[1]))

    expected = np.mean([cosine(part.embeddings) for part in parts.values()])
    assert cosine(both.embeddings) == pytest.approx(expected, abs=1e-6)


def test_systems_survive_saving_and_broken_files_are_named(tmp_path: Path) -> None:
    systems = {
        "one": System(
            {"class": ("one",), "color": ("one", "two")}, {"class": 1.5, "color": 1.0}, {"class": 0.8, "color": None}
        )
    }
    save_systems(tmp_path / "systems.json", systems)
    assert load_systems(tmp_path / "systems.json") == systems
    (tmp_path / "systems.json").write_text('{"one": {"members": ["one"]}}')
    with pytest.raises(ArtifactError, match="not a valid systems file"):
        load_systems(tmp_path / "systems.json")
