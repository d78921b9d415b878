"""The Predictor gives one answer for one photograph, from memory or from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrine.inference import Predictor, softmax
from vitrine.labels import LabelSpace
from vitrine.model import create_model, save_model
from vitrine.photos import PhotoError, decode_photo
from vitrine.predictions import Predictions

SPACE = LabelSpace({"class": ("cup", "hat"), "color": ("blue", "red", "green")})


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    torch.manual_seed(0)
    save_model(create_model("test_vit", "none", SPACE, 24, 32, 0.1, 0.2), tmp_path / "small", {})
    return Predictor.load(tmp_path / "small")


def test_files_and_decoded_photographs_are_predicted_alike(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(path)
    decoded = decode_photo(path, 24, 50.0)[None]
    from_file = predictor.predict_files([path], 50.0)
    from_memory = predictor.predict(decoded, [str(path)])
    assert from_file.image_paths == from_memory.image_paths
    assert all(np.array_equal(from_file.probs[task], from_memory.probs[task]) for task in SPACE)
    with pytest.raises(PhotoError, match=r"absent\.jpg"):
        predictor.predict_files([tmp_path / "absent.jpg"], 50.0)


def test_probabilities_sum_to_one_and_predictions_survive_saving(predictor: Predictor, tmp_path: Path) -> None:
    photos = np.random.default_rng(1).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    predictions = predictor.predict(photos, [f"{row}.jpg" for row in range(5)])
    for task in SPACE:
        assert predictions.probs[task].shape == (5, SPACE.num_labels(task))
        assert np.allclose(predictions.probs[task].sum(axis=1), 1)
    predictions.save(tmp_path / "p.npz")
    first = (tmp_path / "p.npz").read_bytes()
    again = Predictions.load(tmp_path / "p.npz")
    assert again.image_paths == predictions.image_paths and again.label_space == predictions.label_space
    assert np.array_equal(again.embeddings, predictions.embeddings)
    again.save(tmp_path / "p.npz")
    assert (tmp_path / "p.npz").read_bytes() == first
    chosen = again.select(np.array([True, False, False, True, False]))
    assert chosen.image_paths == ("0.jpg", "3.jpg")
    assert np.array_equal(chosen.predicted("color"), predictions.predicted("color")[[0, 3]])


def test_cost_counts_every_parameter_and_the_file(predictor: Predictor, tmp_path: Path) -> None:
    cost = predictor.cost()
    assert cost["checkpoint_bytes"] == (tmp_path / "small" / "model.safetensors").stat().st_size
    assert cost["parameters"] == sum(parameter.numel() for parameter in predictor.model.parameters())
    heads = 2 * sum(p.numel() for p in predictor.model.heads.parameters() if p.ndim == 2)
    assert int(cost["flops"]) > heads


def test_softmax_is_exact_and_does_not_overflow() -> None:
    assert softmax(np.array([[0.0, np.log(3.0)]], dtype=np.float32))[0] == pytest.approx([0.25, 0.75])
    assert np.isfinite(softmax(np.array([[1e30, -1e30]], dtype=np.float32))).all()
