"""A backbone is judged on held-out items only: by a probe, by training, and against classical features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import make_dataset
from test_training import params as training_params

from vitrine.catalog import CatalogError, DataParams
from vitrine.labels import MISSING, LabelSpace
from vitrine.strategies import MobilevitParams, Strategy
from vitrine.training import Phase
from vitrine.transfer import Photographs, TransferParams, fine_tune, linear_probe, support_vector_machine

TRANSFER = TransferParams(num_folds=3, seed=1, photo_size_px=24, max_megapixels=50.0, inverse_penalty=1.0, svm_c=1.0)


def some(photos: np.ndarray, codes: np.ndarray, num_folds: int = 3) -> Photographs:
    space = LabelSpace({"class": tuple(f"class {code}" for code in range(codes.max() + 1))})
    rows = np.arange(len(photos))
    return Photographs(space, photos, {"class": codes}, rows, rows % num_folds)


def coloured(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Photographs whose class is whether they are red or blue."""
    rng = np.random.default_rng(0)
    photos, codes = rng.integers(0, 80, (num, 24, 24, 3), dtype=np.uint8), np.arange(num) // 2 % 2
    photos[codes == 0, ..., 0] += 150
    photos[codes == 1, ..., 2] += 150
    return photos, codes


def test_test_photographs_and_broken_folders_are_kept_out(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    rows = make_dataset(folder)
    params = DataParams(path=str(folder), attributes=["color"], aliases={}, masked_labels={})
    found = Photographs.read(params, TRANSFER)
    assert len(found.photos) == sum(row["split"] != "test" for row in rows) < len(rows)
    for item in np.unique(found.items):
        assert len(set(found.folds[found.items == item])) == 1
    with pytest.raises(CatalogError):
        Photographs.read(params.model_copy(update={"path": str(tmp_path / "none")}), TRANSFER)


def test_the_probe_learns_what_is_in_the_features_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    codes = np.array([0, 1] * 40 + [MISSING] * 10)
    photographs = some(np.zeros((90, 8, 8, 3), np.uint8), codes, 5)
    signal = rng.normal(size=(90, 8)).astype(np.float32)
    signal[:, 0] += 6 * codes
    scores = photographs.rows(linear_probe(photographs, signal, 1.0), backbone="b").iloc[0]
    assert (scores["n"], scores["backbone"], scores["task"]) == (80, "b", "class")
    assert scores["accuracy"] > 0.95
    assert scores["accuracy_ci_low"] <= scores["accuracy"] <= scores["accuracy_ci_high"]
    noise = linear_probe(photographs, rng.normal(size=(90, 8)).astype(np.float32), 1.0)
    assert 0.25 < photographs.rows(noise).loc[0, "accuracy"] < 0.75


def test_no_label_of_a_fold_reaches_its_own_predictions() -> None:
    """Every item has a random class of its own; its features name the item, so leaking labels would be learnt."""
    codes = np.random.default_rng(1).integers(0, 2, 60)
    photographs = some(np.zeros((60, 8, 8, 3), np.uint8), codes)
    accuracy = photographs.rows(linear_probe(photographs, np.eye(60, dtype=np.float32), 1.0)).loc[0, "accuracy"]
    assert accuracy < 0.75


def test_classical_features_tell_colours_apart() -> None:
    photographs = some(*coloured(36))
    assert photographs.rows(support_vector_machine(photographs, 1.0)).loc[0, "accuracy"] > 0.9


def test_fine_tuning_learns_from_the_other_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = MobilevitParams(
        architecture="test_vit", weights="none", image_size_px=32, precision="fp32", epochs=8, learning_rate=3.0e-3
    )
    strategy = Strategy(backbone, [Phase("full", 8, 3e-3, 3e-3)], balanced=True)
    photographs = some(*coloured(48))
    predicted = fine_tune(photographs, strategy, training_params(saturation=0.0), "t")
    assert photographs.rows(predicted).loc[0, "accuracy"] > 0.8
    assert not list(tmp_path.rglob("*.safetensors"))
