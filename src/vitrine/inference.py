"""The one road from photographs to predictions, used by every stage and program that predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from vitrine.labels import LabelSpace
from vitrine.model import MultiTaskModel, load_model
from vitrine.photos import decode_photo
from vitrine.predictions import Predictions


class Predictor:
    """A trained model, ready to predict."""

    def __init__(self, name: str, model: MultiTaskModel, checkpoint_bytes: int) -> None:
        self.name = name
        self.model = model.eval()
        self.checkpoint_bytes = checkpoint_bytes

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Load a training stage's folder; its name is the model's name.

        Raises:
            ArtifactError: the folder does not hold a whole checkpoint.
        """
        model = load_model(folder).to(memory_format=torch.channels_last)
        return cls(folder.name, model, (folder / "model.safetensors").stat().st_size)

    @property
    def label_space(self) -> LabelSpace:
        return self.model.spec.label_space

    def predict(self, photos: NDArray[np.uint8], image_paths: Sequence[str]) -> Predictions:
        """Predict decoded photographs.

        Shape:
            photos: (photos, height, width, channels), square, as `decode_photo` gives them
        """
        logits, embeddings = self.model.infer(photos)
        probs = {task: softmax(scores) for task, scores in logits.items()}
        return Predictions(self.label_space, tuple(image_paths), probs, embeddings)

    def predict_files(self, paths: Sequence[Path], max_megapixels: float) -> Predictions:
        """Decode and predict files.

        Raises:
            PhotoError: a file is not a readable photograph.
        """
        side = self.model.spec.preprocessing.photo_size_px
        photos = np.empty((len(paths), side, side, 3), dtype=np.uint8)
        for row, path in enumerate(paths):
            photos[row] = decode_photo(path, side, max_megapixels)
        return self.predict(photos, [str(path) for path in paths])

    def cost(self) -> dict[str, str | int]:
        """Return what the model costs: parameters, bytes of its checkpoint, and FLOPs for one photograph.

        A multiplication and an addition are two FLOPs; only matrix products and convolutions are counted.
        """
        spec = self.model.spec
        device = next(self.model.parameters()).device
        image = torch.zeros(1, 3, spec.preprocessing.image_size_px, spec.preprocessing.image_size_px, device=device)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            self.model(image)
        return {
            "architecture": spec.architecture,
            "image_size_px": spec.preprocessing.image_size_px,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "checkpoint_bytes": self.checkpoint_bytes,
            "flops": int(counter.get_total_flops()),
        }


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits into probabilities. Shape: (photos, labels)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
