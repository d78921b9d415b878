"""The Predictor gives the same predictions for a photograph from memory as from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrine.artifacts import ArtifactError
from vitrine.inference import network as networks
from vitrine.inference.network import Network
from vitrine.inference.novelty import FOLDER, Detector, Novelty
from vitrine.inference.predictor import Predictor
from vitrine.inference.runtimes import TorchRuntime, checkpoint_digest
from vitrine.inference.systems import System, save_systems
from vitrine.labels import LabelSpace
from vitrine.learning.model import create_model, pick_device, save_model
from vitrine.photos import Decoding, PhotoError, decode_photo
from vitrine.predictions import Predictions

SPACE = LabelSpace({"class": ("cup", "hat"), "color": ("blue", "red", "green")})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Save two small networks and an ensemble with temperatures other than 1."""
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        save_model(create_model("test_vit", "none", SPACE, Decoding(24, 50.0), 32, 0.1, 0.2), tmp_path / name, {})
    warm, sure = dict.fromkeys(SPACE, 0.5), dict.fromkeys(SPACE, 0.9)
    systems = {name: System(dict.fromkeys(SPACE, (name,)), warm, sure) for name in ("one", "two")}
    save_systems(
        tmp_path / "systems.json", {**systems, "ensemble": System(dict.fromkeys(SPACE, ("one", "two")), warm, sure)}
    )
    return tmp_path


@pytest.fixture
def predictor(models: Path) -> Predictor:
    return Predictor.load("ensemble", models)


def test_files_and_decoded_photographs_have_equal_predictions(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(path)
    decoded = decode_photo(path, 24, 50.0)[None]
    from_file = predictor.predict_files([path])
    from_memory = predictor.predict(decoded, [str(path)])
    assert from_file.image_paths == from_memory.image_paths
    assert all(np.array_equal(from_file.probs[task], from_memory.probs[task]) for task in SPACE)
    with pytest.raises(PhotoError, match=r"absent\.jpg"):
        predictor.predict_files([tmp_path / "absent.jpg"])


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


def test_the_ensemble_averages_calibrated_members(predictor: Predictor, models: Path) -> None:
    photos = np.random.default_rng(2).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    names = ["a", "b", "c"]
    raw = Network.load(models / "one").predict(photos, names).probs["color"].astype(np.float64)
    one, two = (Predictor.load(name, models).predict(photos, names) for name in ("one", "two"))
    np.testing.assert_allclose(one.probs["color"], raw**2 / (raw**2).sum(axis=1, keepdims=True), rtol=1e-5)
    mean = (one.probs["color"].astype(np.float64) + two.probs["color"]) / 2
    both = predictor.predict(photos, names)
    np.testing.assert_allclose(both.probs["color"], mean**2 / (mean**2).sum(axis=1, keepdims=True), rtol=1e-5)
    assert both.embeddings.shape[1] == one.embeddings.shape[1] + two.embeddings.shape[1]
    assert predictor.sure_thresholds["class"] == 0.9


def test_a_prediction_of_an_unreliable_task_is_never_confident(predictor: Predictor) -> None:
    runtime = predictor.runtime
    assert isinstance(runtime, TorchRuntime)
    system = replace(runtime.systems["ensemble"], sure_thresholds={"class": 0.9, "color": None})
    systems = {**runtime.systems, "ensemble": system}
    doubtful = Predictor("ensemble", TorchRuntime("ensemble", systems, runtime.networks, ""))
    probs = {"class": np.array([[1, 0], [0.8, 0.2]], np.float32), "color": np.array([[1, 0, 0]] * 2, np.float32)}
    certain, unsure = doubtful.to_records(Predictions(SPACE, ("a", "b"), probs, np.zeros((2, 1), np.float32)))
    assert [record["tasks"]["class"]["certainty"] for record in (certain, unsure)] == ["confident", "unsure"]
    for record in (certain, unsure):
        assert record["tasks"]["color"]["certainty"] == "unreliable"
        assert record["tasks"]["color"]["labels"][0] == {"label": "blue", "probability": 1.0}


def test_an_unknown_system_or_missing_models_are_a_clear_error(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no system 'three'. Available: ensemble, one, two"):
        Predictor.load("three", models)
    with pytest.raises(ArtifactError, match=r"systems\.json: not found"):
        Predictor.load("one", tmp_path / "absent")


def test_cost_counts_every_parameter(models: Path) -> None:
    network = Network.load(models / "one")
    cost = network.cost()
    assert cost["parameters"] == sum(parameter.numel() for parameter in network.model.parameters())
    heads = 2 * sum(p.numel() for p in network.model.heads.parameters() if p.ndim == 2)
    assert int(cost["flops"]) > heads


def test_a_network_is_placed_where_training_would_place_it(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Network.load(models / "one").device == pick_device().type
    monkeypatch.setattr(networks, "pick_device", lambda: torch.device("meta"))
    network = Network.load(models / "one")
    assert network.device == "meta"
    assert {parameter.device.type for parameter in network.model.parameters()} == {"meta"}


def test_accelerators_come_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def available(cuda: bool, mps: bool) -> str:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        return pick_device().type

    assert [available(True, True), available(False, True), available(False, False)] == ["cuda", "mps", "cpu"]


def test_the_limit_of_megapixels_is_that_of_the_models(predictor: Predictor, tmp_path: Path) -> None:
    assert predictor.max_megapixels == 50.0
    path = tmp_path / "wide.png"
    Image.new("RGB", (9000, 6000)).save(path)
    with pytest.raises(PhotoError, match="larger than the limit of 50 megapixels"):
        predictor.predict_files([path])


def test_a_photograph_unlike_the_training_photographs_is_none_of_these(models: Path) -> None:
    plain = Predictor.load("ensemble", models)
    photos = np.random.default_rng(4).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    photos[2] = 128
    assert [record["novelty"] for record in plain.predict_records(photos, "abc")] == [None] * 3
    assert plain.num_refused(plain.predict(photos, "abc")) == 0
    units = plain.predict(photos[:2], "ab").embeddings
    bank = units / np.linalg.norm(units, axis=1, keepdims=True)
    far = Novelty(Detector("neighbors", {"bank": bank}, 1), 1e-6, checkpoint_digest("ensemble", models))
    far.save(models / FOLDER, "ensemble")
    predictor = Predictor.load("ensemble", models)
    known, _, gray = predictor.predict_records(photos, "abc")
    assert not known["novelty"]["refused"] and known["novelty"]["reason"] is None
    assert known["answer"] != "None of these"
    assert gray["answer"] == "None of these" and gray["novelty"]["score"] > gray["novelty"]["threshold"] == 1e-6
    nearest = gray["tasks"]["class"]["labels"][0]["label"]
    assert gray["novelty"]["reason"] == f"Looks like none of the 2 classes; nearest: {nearest}."
    assert {prediction["certainty"] for prediction in gray["tasks"].values()} == {"unsure"}
    assert predictor.num_refused(predictor.predict(photos, "abc")) == 1
    alone = {"one": System(dict.fromkeys(SPACE, ("one",)), {}, {})}
    save_systems(models / "systems.json", {**alone, "ensemble": alone["one"]})
    with pytest.raises(ArtifactError, match=r"does not match the models in .* Run: dvc repro ood"):
        Novelty.load(models, "ensemble", checkpoint_digest("ensemble", models))
