"""Many files are predicted in order by any decoder, and a killed run resumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitrine.inference import stream
from vitrine.inference.predictor import Predictor
from vitrine.inference.stream import predict_stream
from vitrine.labels import LabelSpace
from vitrine.photos import Decoding

SPACE = LabelSpace({"class": ("dark", "bright")})


class BrightnessRuntime:
    """Predicts the brightness of a photograph."""

    name, checkpoint = "test fp32", "abc"
    label_space, decoding, sure_thresholds = SPACE, Decoding(16, 1.0), {"class": None}

    def __init__(self) -> None:
        self.num_predicted = 0

    def predict(self, photos: np.ndarray, batch_size: int = 8) -> Any:
        self.num_predicted += len(photos)
        bright = photos.reshape(len(photos), -1).mean(axis=1, dtype=np.float32) / 255
        return {"class": np.stack([1 - bright, bright], axis=1)}, bright[:, None]


@pytest.fixture
def files(tmp_path: Path) -> Sequence[Path]:
    """Write twelve photographs of increasing brightness and two invalid files."""
    paths = []
    for number in range(14):
        path = tmp_path / f"photos/{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        if number in (3, 9):
            path.write_text("no photograph")
        else:
            Image.new("RGB", (20, 20), (number * 10,) * 3).save(path)
        paths.append(path)
    return paths


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK", 2)
    monkeypatch.setattr(stream, "CHUNKS_PER_SHARD", 2)


def run(files: Sequence[Path], finished: Path, stop_after: int = 99) -> tuple[BrightnessRuntime, list[Any]]:
    runtime, results = BrightnessRuntime(), []
    shards = predict_stream(Predictor("bright", runtime), files, finished)
    for _, shard in zip(range(stop_after), shards, strict=False):
        results.append(shard)
    shards.close()  # type: ignore[attr-defined]
    return runtime, results


@pytest.mark.usefixtures("deadly")
def test_a_file_that_kills_its_decoder_is_a_fault(files: Sequence[Path], tmp_path: Path) -> None:
    files[5].write_text("kills its decoder with SIGKILL")
    _, results = run(files, tmp_path / "finished")
    paths = [path for predictions, _, _ in results for path in predictions.image_paths]
    assert paths == [path.as_posix() for number, path in enumerate(files) if number not in (3, 5, 9)]
    assert (files[5].as_posix(), "its decoder died (SIGKILL)") in [
        fault for _, faults, _ in results for fault in faults
    ]


@pytest.mark.slow
def test_files_come_back_in_order_with_their_faults(files: Sequence[Path], tmp_path: Path) -> None:
    runtime, results = run(files, tmp_path / "finished")
    paths = [path for predictions, _, _ in results for path in predictions.image_paths]
    assert paths == [path.as_posix() for number, path in enumerate(files) if number not in (3, 9)]
    bright = np.concatenate([predictions.embeddings[:, 0] for predictions, _, _ in results])
    np.testing.assert_allclose(bright, [n * 10 / 255 for n in range(14) if n not in (3, 9)], atol=1e-6)
    assert [num for _, _, num in results] == [4, 4, 4, 2] and runtime.num_predicted == 12
    faults = [fault for _, faults, _ in results for fault in faults]
    assert faults == [(files[row].as_posix(), "is not an image that can be read") for row in (3, 9)]


@pytest.mark.slow
def test_a_stopped_run_resumes_at_the_unfinished_shard(files: Sequence[Path], tmp_path: Path) -> None:
    whole = run(files, tmp_path / "whole")[1]
    run(files, tmp_path / "finished", stop_after=2)
    runtime, results = run(files, tmp_path / "finished")
    assert runtime.num_predicted == 5, "only the last two shards are predicted again, without the file that is none"
    for (first, faults, _), (second, again, _) in zip(whole, results, strict=True):
        assert first.image_paths == second.image_paths and faults == again
        assert np.array_equal(first.embeddings, second.embeddings)
    Image.new("RGB", (20, 20), (255,) * 3).save(files[0])
    runtime, _ = run(files, tmp_path / "finished")
    assert runtime.num_predicted == 3, "a changed file is predicted again, with its shard"
