"""From photographs to calibrated probabilities and embeddings: one road for the command line, the page and Python."""

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
        name: of the system
        runtime: what computes
        label_space: the tasks and their labels
        photo_size_px: side of the squares that photographs are decoded to
        max_megapixels: size above which photographs are refused
        sure_thresholds: confidence per task from which on the answer is sure; None where the task is unreliable on
            this data
        checkpoint: identifies the networks and what calibrates them
        novelty: says which photographs are none of the classes; None for models whose pipeline did not fit it
        models: folder in which what calibrates clips is looked for
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
        """Load system `name`: as exported, where an export of these very models is there, else with PyTorch.

        Args:
            models: folder of the networks and systems.json.
            exports: folder that `make export` wrote.
            backend: `auto`, or what has to compute: `openvino`, `onnxruntime` or `torch`.

        Raises:
            ArtifactError: there is no such system, a file is missing or broken, the backend is not available, or
                models/novelty was fitted for other models.
        """
        runtime = load_runtime(name, models, exports, backend)
        return cls(name, runtime, Novelty.load(models, name, runtime.checkpoint), models)

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
            one sentence, "novelty": whether it is none of the classes, "tasks": {task: {"certainty": "confident" if the
            first label reaches the task's threshold, "unsure" below it, "unreliable" where the task has none on this
            data, "labels": [{"label", "probability"}], the most probable first}}}. "novelty" is None without a fitted
            score, else {"refused", "score", "threshold": the greatest score that is accepted, "reason": a sentence if
            it is refused, else None}. Nothing is confident of what is refused.

        Shape:
            photos: as `predict`
        """
        return self.to_records(self.predict(photos, image_paths), top_k)

    def to_records(self, found: Predictions, top_k: int = 3) -> list[dict[str, Any]]:
        """Say in words what predictions say, as `predict_records` does."""
        answers, scores = [], self.novelty.scores(found) if self.novelty else None
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
            known = {"image_path": name, "model": self.name, "backend": self.runtime.name}
            answers.append({**known, "answer": answer_sentence(tasks, novelty), "novelty": novelty, "tasks": tasks})
        return answers

    def num_refused(self, found: Predictions) -> int:
        """Count the photographs that look like none of the classes; 0 where nothing was fitted to say so."""
        return int((self.novelty.scores(found) > self.novelty.threshold).sum()) if self.novelty else 0


def fuse(found: Predictions, name: str) -> Predictions:
    """Make one prediction of several photographs of one item: fused probabilities, the mean of unit embeddings."""
    item = np.zeros(len(found), dtype=np.int64)
    probs = {task: fuse_views(values, item).astype(np.float32) for task, values in found.probs.items()}
    lengths = np.maximum(np.linalg.norm(found.embeddings, axis=1, keepdims=True), 1e-12)
    embedding = (found.embeddings / lengths).mean(axis=0, keepdims=True)
    return Predictions(found.label_space, (name,), probs, embedding)
