"""The one road from photographs to predictions, used by every stage and program that predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch.utils.flop_counter import FlopCounterMode

from vitrine.artifacts import ArtifactError
from vitrine.inference.calibration import is_confident
from vitrine.inference.systems import System, load_systems, system_predictions
from vitrine.labels import LabelSpace
from vitrine.learning.imagenet import ARCHITECTURE
from vitrine.learning.model import MultiTaskModel, create_model, load_model, pick_device
from vitrine.learning.preprocess import Decoding
from vitrine.photos import decode_photo
from vitrine.predictions import Predictions, fuse_views


class Network:
    """A trained network; its probabilities are not calibrated."""

    def __init__(self, model: MultiTaskModel) -> None:
        self.model = model.eval()

    @classmethod
    def load(cls, folder: Path) -> Network:
        """Load a training stage's folder onto the device that training would take.

        Raises:
            ArtifactError: the folder does not hold a whole checkpoint.
        """
        return cls(load_model(folder).to(pick_device()).to(memory_format=torch.channels_last))

    @property
    def device(self) -> str:
        """Kind of device that predicts: cpu, cuda or mps."""
        return next(self.model.parameters()).device.type

    def predict(self, photos: NDArray[np.uint8], image_paths: Sequence[str]) -> Predictions:
        """Predict decoded photographs.

        Shape:
            photos: (photos, height, width, channels), square, as `decode_photo` gives them
        """
        logits, embeddings = self.model.infer(photos)
        probs = {task: softmax(scores.astype(np.float64), axis=1).astype(np.float32) for task, scores in logits.items()}
        return Predictions(self.model.spec.label_space, tuple(image_paths), probs, embeddings)

    def cost(self) -> dict[str, str | int]:
        """Return what the network costs: its parameters, FLOPs for one photograph, and the device that counted them.

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
    """Return what EfficientNet-Lite0 sees in photographs with ImageNet's weights alone: for the linear probe.

    Shape:
        photos: (photos, height, width, channels), square; returns: (photos, features)
    Raises:
        WeightsError: the package with the weights is missing or is not the pinned one.
    """
    decoding = Decoding(photos.shape[1], math.inf)  # which is done
    model = create_model(ARCHITECTURE, "imagenet", LabelSpace({}), decoding, image_size_px, 0.0, 0.0)
    return model.to(pick_device()).to(memory_format=torch.channels_last).infer(photos)[1]


class Predictor:
    """A system, ready to predict: a network or the ensemble, calibrated."""

    def __init__(self, name: str, systems: Mapping[str, System], networks: Mapping[str, Network]) -> None:
        self.name = name
        self.systems = systems
        self.networks = networks

    @classmethod
    def load(cls, name: str, folder: Path = Path("models")) -> Predictor:
        """Load system `name` from the folder that holds the networks and systems.json.

        Raises:
            ArtifactError: there is no such system, or a file is missing or broken.
        """
        systems = load_systems(folder / "systems.json")
        if name not in systems:
            raise ArtifactError(f"{folder}: no system '{name}'. There are: {', '.join(systems)}")
        return cls(name, systems, {member: Network.load(folder / member) for member in systems[name].networks})

    @property
    def label_space(self) -> LabelSpace:
        return self._model.spec.label_space

    @property
    def photo_size_px(self) -> int:
        """Side of the squares that photographs are decoded to."""
        return self._model.spec.preprocessing.decoding.photo_size_px

    @property
    def max_megapixels(self) -> float:
        """Size above which photographs are refused."""
        return self._model.spec.preprocessing.decoding.max_megapixels

    @property
    def sure_thresholds(self) -> Mapping[str, float | None]:
        """Confidence per task from which on the answer is sure; None where the task is unreliable on this data."""
        return self.systems[self.name].sure_thresholds

    @property
    def _model(self) -> MultiTaskModel:
        return next(iter(self.networks.values())).model

    def predict(self, photos: NDArray[np.uint8], image_paths: Sequence[str]) -> Predictions:
        """Predict decoded photographs.

        Shape:
            photos: (photos, height, width, channels), square, as `decode_photo` gives them
        """
        raw = {name: network.predict(photos, image_paths) for name, network in self.networks.items()}
        return system_predictions(self.name, self.systems, raw)

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
            for each {"photo": its name, "tasks": {task: {"sure": whether the first label reaches the threshold,
            "reliable": whether the task has one, "labels": [{"label", "probability"}], the most probable first}}}

        Shape:
            photos: as `predict`
        """
        return self.to_records(self.predict(photos, image_paths), top_k)

    def to_records(self, found: Predictions, top_k: int = 3) -> list[dict[str, Any]]:
        """Say in words what predictions say, as `predict_records` does."""
        answers, thresholds = [], self.sure_thresholds
        sure = {task: is_confident(found.probs[task], thresholds[task]) for task in self.label_space}
        for row, name in enumerate(found.image_paths):
            tasks = {}
            for task, labels in self.label_space.labels.items():
                probs = found.probs[task][row]
                best = np.argsort(-probs, kind="stable")[:top_k]
                named = [{"label": labels[code], "probability": round(float(probs[code]), 4)} for code in best]
                reliable = thresholds[task] is not None
                tasks[task] = {"sure": bool(sure[task][row]), "reliable": reliable, "labels": named}
            answers.append({"photo": name, "tasks": tasks})
        return answers


def fuse(found: Predictions, name: str) -> Predictions:
    """Make one prediction of several photographs of one item: fused probabilities, the mean of unit embeddings."""
    item = np.zeros(len(found), dtype=np.int64)
    probs = {task: fuse_views(values, item).astype(np.float32) for task, values in found.probs.items()}
    lengths = np.maximum(np.linalg.norm(found.embeddings, axis=1, keepdims=True), 1e-12)
    embedding = (found.embeddings / lengths).mean(axis=0, keepdims=True)
    return Predictions(found.label_space, (name,), probs, embedding)
