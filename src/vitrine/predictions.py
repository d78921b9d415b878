"""Predictions of a model for photographs: probabilities per task and embeddings. Plain arrays, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_npz, write_npz
from vitrine.labels import LabelSpace


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model for some photographs.

    Shape:
        image_paths: one string per photograph, as in labels.csv (or as given to the Predictor)
        probs[task]: (photos, labels), float32, rows sum to 1
        embeddings: (photos, features), float32, not normalized
    """

    label_space: LabelSpace
    image_paths: tuple[str, ...]
    probs: Mapping[str, NDArray[np.float32]]
    embeddings: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.image_paths)

    def select(self, rows: NDArray[Any]) -> Predictions:
        """Select photographs. Shape: rows (n,) integer positions or a (photos,) boolean mask."""
        positions = np.arange(len(self))[rows]
        return Predictions(
            self.label_space,
            tuple(self.image_paths[position] for position in positions),
            {task: probs[positions] for task, probs in self.probs.items()},
            self.embeddings[positions],
        )

    def predicted(self, task: str) -> NDArray[np.int64]:
        """Return the most probable label code per photograph. Shape: (photos,)."""
        return np.argmax(self.probs[task], axis=1)

    def save(self, path: Path) -> None:
        arrays: dict[str, NDArray[Any]] = {f"probs.{task}": probs for task, probs in self.probs.items()}
        arrays["embeddings"] = self.embeddings
        arrays["image_paths"] = np.array(self.image_paths, dtype=np.str_)
        arrays["label_space"] = np.array(json.dumps(self.label_space.to_json(), ensure_ascii=False), dtype=np.str_)
        write_npz(path, arrays)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Load a file of predictions. Raises: ArtifactError: the file is missing or does not contain predictions."""
        arrays = read_npz(path)
        try:
            label_space = LabelSpace.from_json(json.loads(str(arrays["label_space"])))
            probs = {task: arrays[f"probs.{task}"] for task in label_space}
            return cls(label_space, tuple(str(p) for p in arrays["image_paths"]), probs, arrays["embeddings"])
        except KeyError as error:
            raise ArtifactError(f"{path}: not a file of predictions ({error} is missing). Run: dvc repro") from None


def fuse_views(probs: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """Combine the views of every item: the normalized geometric mean of their probabilities.

    Shape:
        probs: (photos, labels); items: (photos,), numbered from 0; returns: (items, labels)
    """
    logs = np.log(np.maximum(probs.astype(np.float64), 1e-12))
    totals = np.zeros((int(items.max(initial=-1)) + 1, probs.shape[1]))
    np.add.at(totals, items, logs)
    means = totals / np.maximum(np.bincount(items, minlength=len(totals)), 1)[:, None]
    fused = np.exp(means - means.max(axis=1, keepdims=True))
    return np.asarray(fused / fused.sum(axis=1, keepdims=True))
