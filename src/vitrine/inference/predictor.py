"""Predict calibrated probabilities and embeddings of photographs, for the command line, the page and Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrine.inference.novelty import Novelty
from vitrine.inference.runtimes import Runtime, load_runtime
from vitrine.inference.wording import answer_sentence, certainty_of, nearest_sentence
from vitrine.labels import CLASS_TASK
from vitrine.photos import decode_photo
from vitrine.predictions import Predictions, fuse_views


class Predictor:
    """A system, ready to predict: a network or the ensemble, calibrated.

    Attributes:
        name: name of the system
        runtime: computes the predictions
        label_space: the tasks and their labels
        photo_size_px: side of the squares that photographs are decoded to
        max_megapixels: size above which photographs are refused
        sure_thresholds: per task, the lowest confidence of a sure answer; None if the task is unreliable on this
            data
        checkpoint: identifies the networks and what calibrates them
        novelty: tells which photographs are none of the classes; None if the pipeline did not fit it
        models: folder that is searched for the calibration of clips
    """

    def __init__(
        self, name: str, runtime: Runtime, novelty: Novelty | None = None, models: Path = Path("models")
    ) -> None:
        self.name = name
        self.novelty = novelty
        self.runtime = runtime
        self.models = models
        self.label_space = runtime.label_space
        self.photo_size_px = runtime.decoding.photo_size_px
        self.max_megapixels = runtime.decoding.max_megapixels
        self.sure_thresholds = runtime.sure_thresholds
        self.checkpoint = runtime.checkpoint

    @classmethod
    def load(
        cls, name: str, models: Path = Path("models"), exports: Path = Path("exports"), backend: str = "auto"
    ) -> Predictor:
        """Load system `name`: an export if there is one of exactly these models, otherwise with PyTorch.

        Args:
            models: folder of the networks and systems.json.
            exports: folder that `make export` wrote.
            backend: `auto`, `openvino`, `onnxruntime` or `torch`.

        Raises:
            ArtifactError: there is no such system, a file is missing or broken, the backend is not available, or
                models/novelty was fitted for other models.
        """
        runtime = load_runtime(name, models, exports, backend)
        return cls(name, runtime, Novelty.load(models, name, runtime.checkpoint), models)

    def predict(self, photos: NDArray[np.uint8], image_paths: Sequence[str]) -> Predictions:
        """Predict decoded photographs.

        Shape:
            photos: (photos, height, width, channels), square, as returned by `decode_photo`
        """
        probs, embeddings = self.runtime.predict(photos)
        return Predictions(self.label_space, tuple(image_paths), probs, embeddings)

    def predict_files(self, paths: Sequence[Path]) -> Predictions:
        """Decode and predict files.

        Raises:
            PhotoError: a file is not a readable photograph.
        """
        side = self.photo_size_px
        photos = np.empty((len(paths), side, side, 3), dtype=np.uint8)
        for row, path in enumerate(paths):
            photos[row] = decode_photo(path, side, self.max_megapixels)
        return self.predict(photos, [str(path) for path in paths])

    def predict_records(
        self, photos: NDArray[np.uint8], image_paths: Sequence[str], top_k: int = 3
    ) -> list[dict[str, Any]]:
        """Predict decoded photographs and return records.

        Returns:
            for each {"image_path": its name, "model": the system, "backend": the runtime, "answer": what it is, in one
            sentence, "novelty": whether it belongs to no class, "tasks": {task: {"certainty": "confident" if the
            first label reaches the task's threshold, "unsure" below it, "unreliable" if the task has none on this
            data, "labels": [{"label", "probability"}], most probable first}}}. "novelty" is None without a fitted
            score, else {"refused", "score", "threshold": the highest accepted score, "reason": a sentence if it is
            refused, else None}. If a photograph is refused, no task is confident.

        Shape:
            photos: as `predict`
        """
        return self.to_records(self.predict(photos, image_paths), top_k)

    def to_records(self, found: Predictions, top_k: int = 3) -> list[dict[str, Any]]:
        """Convert predictions to records, as `predict_records` does."""
        records, scores = [], self.novelty.scores(found) if self.novelty else None
        for row, name in enumerate(found.image_paths):
            refused = self.novelty is not None and scores is not None and bool(scores[row] > self.novelty.threshold)
            tasks = {}
            for task, labels in self.label_space.labels.items():
                probs = found.probs[task][row]
                best = np.argsort(-probs, kind="stable")[:top_k]
                named = [{"label": labels[code], "probability": round(float(probs[code]), 4)} for code in best]
                certainty = certainty_of(-1.0 if refused else float(probs.max()), self.sure_thresholds[task])
                tasks[task] = {"certainty": certainty, "labels": named}
            novelty = None
            if self.novelty is not None and scores is not None:
                reason = nearest_sentence(tasks, self.label_space.num_labels(CLASS_TASK)) if refused else None
                measured = {"score": round(float(scores[row]), 6), "threshold": round(self.novelty.threshold, 6)}
                novelty = {"refused": refused, **measured, "reason": reason}
            source = {"image_path": name, "model": self.name, "backend": self.runtime.name}
            records.append({**source, "answer": answer_sentence(tasks, novelty), "novelty": novelty, "tasks": tasks})
        return records

    def num_refused(self, found: Predictions) -> int:
        """Count the photographs that look like none of the classes; 0 if no novelty score was fitted."""
        return int((self.novelty.scores(found) > self.novelty.threshold).sum()) if self.novelty else 0


def fuse(found: Predictions, name: str) -> Predictions:
    """Combine the predictions of one item's photographs: fused probabilities, the mean of unit embeddings."""
    item = np.zeros(len(found), dtype=np.int64)
    probs = {task: fuse_views(values, item).astype(np.float32) for task, values in found.probs.items()}
    lengths = np.maximum(np.linalg.norm(found.embeddings, axis=1, keepdims=True), 1e-12)
    embedding = (found.embeddings / lengths).mean(axis=0, keepdims=True)
    return Predictions(found.label_space, (name,), probs, embedding)
