"""Trained networks, as PyTorch runs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch.utils.flop_counter import FlopCounterMode

from vitrine.labels import LabelSpace
from vitrine.learning.imagenet import ARCHITECTURE
from vitrine.learning.model import MultiTaskModel, create_model, load_model, pick_device
from vitrine.photos import Decoding
from vitrine.predictions import Predictions


class Network:
    """A trained network; its probabilities are not calibrated."""

    def __init__(self, model: MultiTaskModel) -> None:
        self.model = model.eval()

    @classmethod
    def load(cls, folder: Path) -> Network:
        """Load a training stage's folder onto the device that training would use.

        Raises:
            ArtifactError: the folder does not hold a complete checkpoint.
        """
        return cls(load_model(folder).to(pick_device()).to(memory_format=torch.channels_last))

    @property
    def device(self) -> str:
        """Kind of device that predicts: cpu, cuda or mps."""
        return next(self.model.parameters()).device.type

    def predict(self, photos: NDArray[np.uint8], image_paths: Sequence[str], precision: str = "fp32") -> Predictions:
        """Predict decoded photographs.

        Args:
            precision: `bf16` rounds matrix products and convolutions.

        Shape:
            photos: (photos, height, width, channels), square, as returned by `decode_photo`
        """
        with torch.autocast(self.device, torch.bfloat16, enabled=precision == "bf16"):
            logits, embeddings = self.model.infer(photos)
        probs = {task: softmax(scores.astype(np.float64), axis=1).astype(np.float32) for task, scores in logits.items()}
        return Predictions(self.model.spec.label_space, tuple(image_paths), probs, embeddings)

    def cost(self) -> dict[str, str | int]:
        """Return the network's cost: parameters, FLOPs per photograph, and the device on which they were counted.

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
            "flops": int(counter.get_total_flops()),
            "device": self.device,
        }


def imagenet_features(photos: NDArray[np.uint8], image_size_px: int) -> NDArray[np.float32]:
    """Return the features of EfficientNet-Lite0 with ImageNet weights, for the linear probe.

    Shape:
        photos: (photos, height, width, channels), square; returns: (photos, features)
    Raises:
        WeightsError: the package with the weights is missing or is not the pinned one.
    """
    decoding = Decoding(photos.shape[1], math.inf)  # already decoded
    model = create_model(ARCHITECTURE, "imagenet", LabelSpace({}), decoding, image_size_px, 0.0, 0.0)
    return model.to(pick_device()).to(memory_format=torch.channels_last).infer(photos)[1]
