"""Novelty scores follow their formulas, and scores fitted for other models are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.covariance import LedoitWolf

from vitrine.artifacts import ArtifactError
from vitrine.inference.export import ExportedNovelty
from vitrine.inference.novelty import (
    FOLDER,
    MAX_BANK,
    SERVED,
    Detector,
    Novelty,
    Signals,
    acceptance_threshold,
    fit_detector,
    unit,
)
from vitrine.inference.predictor import Predictor
from vitrine.labels import MISSING, LabelSpace
from vitrine.predictions import Predictions

RNG = np.random.default_rng(5)
SPACE = LabelSpace({"class": ("cup", "hat", "shoe")})


def signals(num: int, features: int = 6, spread: float = 0.3) -> tuple[Signals, np.ndarray]:
    """Return signals of photographs of three classes whose embeddings lie around three directions."""
    rng = np.random.default_rng(num)
    codes = np.arange(num) % 3
    raw = np.eye(3, features)[codes] + spread * rng.normal(size=(num, features))
    logits = 3 * raw[:, :3]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Signals(probs.astype(np.float32), unit(raw), logits), codes


def test_the_neighbors_score_is_the_distance_to_the_kth_nearest() -> None:
    bank = unit(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    queries = Signals(np.ones((1, 3)), np.array([[1.0, 0.0]]))
    for neighbors, cosine in ((1, 1.0), (2, np.sqrt(0.5)), (3, 0.0)):
        detector = fit_detector("neighbors", Signals(np.ones((3, 3)), bank), np.zeros(3, np.int64), neighbors)
        assert detector.scores(queries) == pytest.approx([1 - cosine], abs=1e-6)
    assert fit_detector("neighbors", Signals(np.ones((3, 3)), bank), np.zeros(3, np.int64), 50).neighbors == 3


def test_the_bank_of_training_photographs_is_limited() -> None:
    train, codes = signals(3 * MAX_BANK, 4)
    assert len(fit_detector("neighbors", train, codes, 5).tensors["bank"]) == MAX_BANK


@pytest.mark.parametrize(("num", "features"), [(90, 6), (30, 60)])
def test_the_mahalanobis_distance_uses_the_shrunk_covariance(num: int, features: int) -> None:
    train, codes = signals(num, features)
    codes[0] = MISSING
    queries, _ = signals(20, features, 1.0)
    found = fit_detector("mahalanobis", train, codes, 1).scores(queries)
    means = np.stack([train.units[codes == code].mean(axis=0) for code in range(3)])
    labeled = codes != MISSING
    fitted = LedoitWolf(assume_centered=True).fit(train.units[labeled] - means[codes[labeled]])
    expected = [min((row - mean) @ fitted.precision_ @ (row - mean) for mean in means) for row in queries.units]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_energy_and_maximum_probability() -> None:
    train, codes = signals(9)
    queries = Signals(np.array([[0.7, 0.2, 0.1]]), np.array([[1.0] * 6]), np.array([[700.0, 700.0, 0.0]]))
    assert fit_detector("max_probability", train, codes, 1).scores(queries) == pytest.approx([0.3])
    assert fit_detector("energy", train, codes, 1).scores(queries) == pytest.approx([-700 - np.log(2)])


def test_vim_is_the_scaled_residual_plus_the_energy() -> None:
    """Training photographs lie on a line; the residual is scaled by the mean logit over the mean residual."""
    axis = np.array([1.0, 0.0, 0.0])
    train = Signals(
        np.ones((4, 2)),
        np.array([-1.5, -0.5, 0.5, 1.5])[:, None] * axis + 1e-3 * RNG.normal(size=(4, 3)),
        np.full((4, 2), 2.0),
    )
    detector = fit_detector("vim", train, np.zeros(4, np.int64), 1)
    assert detector.tensors["axes"].shape == (1, 3)
    on, off = detector.scores(Signals(np.ones((2, 2)), np.array([[0.7, 0, 0], [0.7, 2.0, 0]]), np.zeros((2, 2))))
    factor = float(detector.tensors["factor"][0])
    assert factor > 100 and off - on == pytest.approx(2 * factor, rel=0.01)


@pytest.mark.parametrize("score", SERVED)
def test_the_exported_score_is_the_same(score: str) -> None:
    train, codes = signals(60)
    queries, _ = signals(25, spread=0.8)
    detector = fit_detector(score, train, codes, 4)
    found = ExportedNovelty(detector)(
        torch.tensor(queries.probs), torch.tensor(queries.units, dtype=torch.float32)
    ).numpy()
    np.testing.assert_allclose(found, detector.scores(queries), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("score", [*SERVED, "energy", "vim"])
def test_photographs_far_from_all_classes_score_higher(score: str) -> None:
    train, codes = signals(90)
    detector = fit_detector(score, train, codes, 5)
    known = signals(30)[0]
    far = unit(np.tile([0.3, 0.3, 0.3, -2.0, 2.0, -2.0], (1, 1)))
    novel = Signals(np.full((1, 3), 1 / 3), far, np.full((1, 3), 0.3))
    assert detector.scores(novel)[0] > np.quantile(detector.scores(known), 0.9)


def test_the_threshold_accepts_the_required_fraction_of_future_photographs() -> None:
    # The 19th of 19: a 20th exceeds it with probability 1/20.
    assert acceptance_threshold(np.arange(1, 20.0), 0.95) == 19
    assert acceptance_threshold(np.arange(1, 100.0), 0.95) == 95
    assert acceptance_threshold(np.arange(3.0), 0.95) == 2
    rng = np.random.default_rng(0)
    accepted = [np.mean(rng.normal(size=50) <= acceptance_threshold(rng.normal(size=99), 0.9)) for _ in range(400)]
    assert np.mean(accepted) == pytest.approx(0.9, abs=0.01)


def test_a_fitted_score_survives_saving_and_is_refused_for_other_models(tmp_path: Path) -> None:
    train, codes = signals(30)
    novelty = Novelty(fit_detector("neighbors", train, codes, 3), 0.25, "abc")
    novelty.save(tmp_path / FOLDER, "one")
    first = {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()}
    again = Novelty.load(tmp_path, "one", "abc")
    assert again is not None and (again.threshold, again.detector.neighbors) == (0.25, 3)
    found = Predictions(
        SPACE, ("a",), {"class": np.full((1, 3), 1 / 3, np.float32)}, 7 * train.units[:1].astype(np.float32)
    )
    assert np.array_equal(again.scores(found), novelty.scores(found))
    again.save(tmp_path / FOLDER, "one")
    assert {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()} == first
    assert Novelty.load(tmp_path, "two", "abc") is None
    with pytest.raises(ArtifactError, match=r"one\.json: does not match the models in .* Run: dvc repro ood"):
        Novelty.load(tmp_path, "one", "xyz")
    (tmp_path / FOLDER / "one.json").write_text('{"score": "neighbors"}')
    with pytest.raises(ArtifactError, match=r"not a valid novelty file \(KeyError.*Run: dvc repro ood"):
        Novelty.load(tmp_path, "one", "abc")


def test_a_score_without_its_logits_is_an_error() -> None:
    with pytest.raises(ValueError, match="energy needs logits"):
        Detector("energy", {}).scores(Signals(np.ones((1, 2)), np.ones((1, 2))))


ROOT = Path(__file__).parents[2]


def test_the_committed_results_refuse_every_blank_picture() -> None:
    """Check the ensemble, the default system, on blank pictures, which were not used to choose the score."""
    scores = pd.read_csv(ROOT / "plots/ood/scores.csv")
    of = scores[scores["served"] & (scores["system"] == "ensemble") & (scores["kind"] == "blank")]
    assert of["use"].tolist() == ["judge"] and of["refused"].tolist() == [1.0]


@pytest.mark.skipif(not (ROOT / "models" / FOLDER / "ensemble.json").is_file(), reason="needs dvc repro")
def test_the_served_ensemble_predicts_none_of_these_for_a_gray_square(tmp_path: Path) -> None:
    Image.new("RGB", (400, 400), (128, 128, 128)).save(tmp_path / "gray.png")
    predictor = Predictor.load("ensemble", ROOT / "models", ROOT / "exports")
    (record,) = predictor.to_records(predictor.predict_files([tmp_path / "gray.png"]))
    assert record["answer"] == "None of these" and record["novelty"]["refused"]
