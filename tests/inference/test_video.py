"""A clip has one fused prediction with its own temperature, and the frames that decided it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from clips import encode, pictures

from vitrine.artifacts import ArtifactError, write_json
from vitrine.data.video import NUM_FRAMES, Clip, read_clip
from vitrine.inference.predictor import Predictor, fuse
from vitrine.inference.systems import System, save_systems
from vitrine.inference.video import CALIBRATION, answer_clip, clip_sentence, clip_temperatures, predict_clip, support
from vitrine.labels import LabelSpace
from vitrine.learning.model import create_model, save_model
from vitrine.photos import Decoding

SPACE = LabelSpace({"class": ("cup", "hat", "pen"), "color": ("blue", "red")})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_model(create_model("test_vit", "none", SPACE, Decoding(24, 50.0), 32, 0.0, 0.0), folder / "one", {})
    save_systems(
        folder / "systems.json",
        {"one": System(dict.fromkeys(SPACE, ("one",)), dict.fromkeys(SPACE, 0.2), dict.fromkeys(SPACE, 0.5))},
    )
    return folder


@pytest.fixture
def predictor(models: Path) -> Predictor:
    return Predictor.load("one", models, backend="torch")


def test_a_clip_is_predicted_by_fused_frames_at_the_temperature_of_clips(
    predictor: Predictor, models: Path, tmp_path: Path
) -> None:
    path = encode(tmp_path / "a.mp4", pictures(20))
    clip = read_clip(path, 24, 50.0)
    fused = fuse(predictor.predict(clip.photos[clip.kept], [""] * len(clip.kept)), "a").probs["class"][0].astype(float)
    views = predict_clip(predictor, path, "a")
    assert views["image_path"] == "a" and views["clip"]["temperature"] == "views"
    assert views["tasks"]["class"]["labels"][0]["probability"] == pytest.approx(fused.max(), abs=1e-4)

    entry = {"checkpoint": predictor.checkpoint, "temperatures": {"class": 2.0, "color": 1.0}}
    write_json(models / CALIBRATION, {"one": entry})
    try:
        found = predict_clip(predictor, path, "a")
        cooled = fused**0.5 / (fused**0.5).sum()
        assert found["clip"]["temperature"] == "clips"
        assert found["tasks"]["class"]["labels"][0]["probability"] == pytest.approx(cooled.max(), abs=1e-4)
        assert found["tasks"]["color"] == views["tasks"]["color"]
        write_json(models / CALIBRATION, {"one": {**entry, "checkpoint": "of other models"}})
        assert clip_temperatures(predictor) is None
        (models / CALIBRATION).write_text('{"one": 3}')
        with pytest.raises(ArtifactError, match=r"clips\.json: not a valid temperature file"):
            clip_temperatures(predictor)
    finally:
        (models / CALIBRATION).unlink()


def test_frames_have_their_labels_and_support(predictor: Predictor) -> None:
    photos = pictures(6, 24)
    clip = Clip(3.0, np.arange(6) / 2, photos, (None, "blurred", None, None, "duplicate", None))
    record, fused = answer_clip(predictor, clip, "a")
    frames = record["clip"]["frames"]
    assert [frame["seconds"] for frame in frames] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert [frame["dropped"] for frame in frames] == list(clip.dropped)
    assert all(frame["label"] is frame["support"] is frame["decided"] is None for frame in frames if frame["dropped"])
    used = [frame for frame in frames if not frame["dropped"]]
    predicted = record["tasks"]["class"]["labels"][0]["label"]
    assert all(frame["agrees"] == (frame["label"] == predicted) for frame in used)
    order = sorted((frame["support"] for frame in used), reverse=True)
    assert {frame["support"] for frame in used if frame["decided"]} <= set(order[:3])
    # The mean support is the log odds of the predicted label against the second.
    best, second = np.sort(fused.probs["class"][0].astype(float))[::-1][:2]
    assert np.mean([frame["support"] for frame in used]) == pytest.approx(np.log(best / second), abs=2e-3)


def test_support_by_hand() -> None:
    probs = np.array([[0.6, 0.3, 0.1], [0.2, 0.4, 0.4]])
    np.testing.assert_allclose(support(probs, np.array([0.5, 0.4, 0.1])), [np.log(2), np.log(0.5)])
    assert support(np.ones((2, 1)), np.ones(1)).tolist() == [0, 0]


def test_the_sentence_counts_and_names_times() -> None:
    used = {"dropped": None, "agrees": True, "decided": True}
    frames = [
        {**used, "seconds": 0.41}, {**used, "seconds": 1.2}, {**used, "seconds": 2.0},
        {"dropped": None, "agrees": False, "decided": False, "seconds": 2.5},
        {"dropped": "blurred", "seconds": 3.0}, {"dropped": "duplicate", "seconds": 3.1},
    ]  # fmt: skip
    expected = "3 of 4 frames agree, decided at 0.4, 1.2 and 2.0 s; dropped: 1 blurred, 1 duplicate."
    assert clip_sentence({"frames": frames}) == expected
    assert clip_sentence({"frames": frames[:1]}) == "1 of 1 frames agree, decided at 0.4 s."


def test_the_command_and_python_use_the_same_number_of_frames() -> None:
    import inspect

    from vitrine.cli import predict

    assert inspect.signature(predict).parameters["frames"].default == NUM_FRAMES
