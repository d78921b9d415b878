"""From photographs to calibrated probabilities and embeddings: one road for the command line, the page and Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrine.inference.runtimes import Runtime, load_runtime
from vitrine.inference.wording import certainty_of, headline
from vitrine.photos import decode_photo
from vitrine.predictions import Predictions, fuse_views


class Predictor:
    """A system, ready to predict: a network or the ensemble, calibrated.

    Attributes:
        name: of the system
        runtime: what computes
        label_space: the tasks and their labels
        photo_size_px: side of the squares that photographs are decoded to
        max_megapixels: size above which photographs are refused
        sure_thresholds: confidence per task from which on the answer is sure; None where the task is unreliable on
            this data
        checkpoint: identifies the networks and what calibrates them
        models: folder in which what calibrates clips is looked for
    """

    def __init__(self, name: str, runtime: Runtime, models: Path = Path("models")) -> None:
        self.name = name
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
        """Load system `name`: as exported, where an export of these very models is there, else with PyTorch.

        Args:
            models: folder of the networks and systems.json.
            exports: folder that `make export` wrote.
            backend: `auto`, or what has to compute: `openvino`, `onnxruntime` or `torch`.

        Raises:
            ArtifactError: there is no such system, a file is missing or broken, or the backend is not available.
        """
        return cls(name, load_runtime(name, models, exports, backend), models)

    def predict(self, photos: NDArray[np.uint8], image_paths: Sequence[str]) -> Predictions:
        """Predict decoded photographs.

        Shape:
            photos: (photos, height, width, channels), square, as `decode_photo` gives them
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
        """Say in words what is on decoded photographs.

        Returns:
            for each {"image_path": its name, "model": the system, "backend": what computed, "answer": what it is, in
            one sentence, "tasks": {task: {"certainty": "confident" if the first label reaches the task's threshold,
            "unsure" below it, "unreliable" where the task has none on this data, "labels": [{"label", "probability"}],
            the most probable first}}}

        Shape:
            photos: as `predict`
        """
        return self.to_records(self.predict(photos, image_paths), top_k)

    def to_records(self, found: Predictions, top_k: int = 3) -> list[dict[str, Any]]:
        """Say in words what predictions say, as `predict_records` does."""
        answers = []
        for row, name in enumerate(found.image_paths):
            tasks = {}
            for task, labels in self.label_space.labels.items():
                probs = found.probs[task][row]
                best = np.argsort(-probs, kind="stable")[:top_k]
                named = [{"label": labels[code], "probability": round(float(probs[code]), 4)} for code in best]
                certainty = certainty_of(float(probs.max()), self.sure_thresholds[task])
                tasks[task] = {"certainty": certainty, "labels": named}
            known = {"image_path": name, "model": self.name, "backend": self.runtime.name}
            answers.append({**known, "answer": headline(tasks), "tasks": tasks})
        return answers


def fuse(found: Predictions, name: str) -> Predictions:
    """Make one prediction of several photographs of one item: fused probabilities, the mean of unit embeddings."""
    item = np.zeros(len(found), dtype=np.int64)
    probs = {task: fuse_views(values, item).astype(np.float32) for task, values in found.probs.items()}
    lengths = np.maximum(np.linalg.norm(found.embeddings, axis=1, keepdims=True), 1e-12)
    embedding = (found.embeddings / lengths).mean(axis=0, keepdims=True)
    return Predictions(found.label_space, (name,), probs, embedding)
