"""The multi-task model: a timm backbone and one head per task; its weights; saving and loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.data.config import resolve_model_data_config
from timm.layers.config import set_fused_attn
from torch import Tensor, nn

from vitrine.artifacts import ArtifactError, read_json, read_tensors, write_json, write_tensors
from vitrine.errors import VitrineError
from vitrine.labels import LabelSpace
from vitrine.learning.imagenet import ARCHITECTURE, ImagenetWeightsError, read_weights, weights_path
from vitrine.learning.preprocess import Preprocessing
from vitrine.photos import Decoding

INFERENCE_BATCH_SIZE = 32


class WeightsError(VitrineError):
    """The weights set in params are not available, or belong to another architecture."""


def pick_device() -> torch.device:
    """Return the device for training and inference: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to rebuild a model, except its weights."""

    architecture: str
    label_space: LabelSpace
    preprocessing: Preprocessing
    feature_dropout: float
    head_dropout: float

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "label_space": self.label_space.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "feature_dropout": self.feature_dropout,
            "head_dropout": self.head_dropout,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ModelSpec:
        return cls(
            document["architecture"],
            LabelSpace.from_json(document["label_space"]),
            Preprocessing.from_json(document["preprocessing"]),
            document["feature_dropout"],
            document["head_dropout"],
        )


class MultiTaskModel(nn.Module):
    """A backbone and dropout, then a Linear - ReLU - Dropout - Linear head for every task."""

    def __init__(self, spec: ModelSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        features = int(backbone.num_features)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(spec.feature_dropout)
        # A list, in the label space's order: a ModuleDict rejects tasks named like its own methods ("type", "keys").
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(features, features // 2),
                nn.ReLU(),
                nn.Dropout(spec.head_dropout),
                nn.Linear(features // 2, spec.label_space.num_labels(task)),
            )
            for task in spec.label_space
        )

    def embed(self, images: Tensor) -> Tensor:
        """Shape: (batch, channels, height, width) -> (batch, features)."""
        features: Tensor = self.backbone(images)
        return features

    def classify(self, embeddings: Tensor) -> dict[str, Tensor]:
        """Shape: (batch, features) -> per task (batch, labels), logits."""
        dropped = self.dropout(embeddings)
        return {task: head(dropped) for task, head in zip(self.spec.label_space, self.heads, strict=True)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Shape: (batch, channels, height, width) -> per task (batch, labels), logits."""
        return self.classify(self.embed(images))

    def forward_training(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor | float]:
        """Return the logits, as `forward` does, and an auxiliary loss to add to those of the tasks: here zero."""
        return self(images), 0.0

    def settings(self) -> dict[str, Any]:
        """Return what determines training besides tensors and params, for the fingerprint of a resumable run."""
        return self.spec.to_json()

    @torch.inference_mode()
    def infer(self, photos: NDArray[np.uint8]) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Return logits per task and embeddings as float32, computed in batches of fixed size for reproducible results.

        Shape:
            photos: (photos, height, width, channels), square; returns: {task: (photos, labels)}, (photos, features)
        """
        self.eval()
        device = next(self.parameters()).device
        logits: dict[str, list[NDArray[np.float32]]] = {task: [] for task in self.spec.label_space}
        embeddings = []
        for start in range(0, len(photos), INFERENCE_BATCH_SIZE):
            images = self.spec.preprocessing.eval_transform(photos[start : start + INFERENCE_BATCH_SIZE], device)
            features = self.embed(images)
            embeddings.append(features.float().cpu().numpy())
            for task, scores in self.classify(features).items():
                logits[task].append(scores.float().cpu().numpy())
        if not embeddings:
            labels = {task: np.empty((0, self.spec.label_space.num_labels(task)), np.float32) for task in logits}
            return labels, np.empty((0, int(self.backbone.num_features)), np.float32)  # type: ignore[arg-type]
        return {task: np.concatenate(parts) for task, parts in logits.items()}, np.concatenate(embeddings)


def create_model(
    architecture: str,
    weights: str,
    label_space: LabelSpace,
    decoding: Decoding,
    image_size_px: int,
    feature_dropout: float,
    head_dropout: float,
) -> MultiTaskModel:
    """Build a model with newly initialized heads on a backbone.

    Args:
        weights: weights of the backbone: `imagenet` (from timm's hub; EfficientNet-Lite0 from a package), `none`
            (random), or the path of a safetensors file.

    Raises:
        WeightsError: the architecture is unknown, does not fit the image size, or its weights cannot be loaded.
    """
    backbone = _create_backbone(architecture, weights, image_size_px)
    data_config = resolve_model_data_config(backbone)  # type: ignore[no-untyped-call]
    preprocessing = Preprocessing.from_timm(data_config, decoding, image_size_px)
    spec = ModelSpec(architecture, label_space, preprocessing, feature_dropout, head_dropout)
    return MultiTaskModel(spec, backbone)


def _create_backbone(architecture: str, weights: str, image_size_px: int) -> nn.Module:
    if not timm.is_model(architecture):
        close = ", ".join(timm.list_models(f"*{architecture.split('_')[0]}*")[:8])
        raise WeightsError(f"architecture: timm has no model '{architecture}'. Similar: {close or 'none'}")
    config = timm.get_pretrained_cfg(architecture)
    # On CPUs, training with PyTorch's fused attention takes up to 1.7 times as long as with plain matrix products.
    set_fused_attn(torch.cuda.is_available())
    size: dict[str, Any] = {"img_size": image_size_px} if config is not None and config.fixed_input_size else {}
    try:
        empty: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **size)
        with torch.inference_mode():
            empty.eval()(torch.zeros(1, 3, image_size_px, image_size_px))
    except Exception as error:
        raise WeightsError(f"image_size_px: {architecture} does not support {image_size_px} px ({error})") from error
    if weights == "none":
        return empty
    if weights == "imagenet" and architecture == ARCHITECTURE:
        try:
            tensors = read_weights(weights_path())
        except ImagenetWeightsError as error:
            raise WeightsError(str(error)) from error
        # Not loaded: the classifier, which the backbone lacks, and the batch counters, which the file lacks.
        empty.load_state_dict(tensors, strict=False)
        return empty
    if weights == "imagenet":
        source: dict[str, Any] = {}
        reason = (
            f"ImageNet weights for {architecture} cannot be fetched from timm's hub. Set weights to file and "
            "weights_file to a safetensors file of this backbone, set weights to none (random weights), or run once "
            "with access to the hub"
        )
    else:
        path = Path(weights)
        _check_weights(path, architecture, empty)
        source = {"pretrained_cfg_overlay": {"file": str(path)}}
        reason = f"weights_file: {path} cannot be loaded into {architecture}"
    try:
        loaded: nn.Module = timm.create_model(architecture, pretrained=True, num_classes=0, **size, **source)
    except Exception as error:
        raise WeightsError(f"{reason}. ({type(error).__name__}: {error})") from error
    return loaded


def _check_weights(path: Path, architecture: str, backbone: nn.Module) -> None:
    """Compare a file's tensors with the backbone's: timm would load those that fit and silently ignore the rest."""
    if not path.is_file():
        raise WeightsError(
            f"weights_file: {path} is not a file. Set it to a safetensors file of {architecture}, or set weights to "
            "imagenet or none"
        )
    try:
        found = {name: tensor.shape for name, tensor in read_tensors(path).items()}
    except ArtifactError as error:
        raise WeightsError(f"weights_file: {path} is not a safetensors file ({error.__cause__})") from error
    expected = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    missing = sorted(set(expected) - set(found))
    # Position embeddings may differ in length: timm resizes them to the image size.
    mismatched = sorted(n for n in set(expected) & set(found) if n != "pos_embed" and expected[n] != found[n])
    if missing or mismatched:
        raise WeightsError(
            f"weights_file: {path} is not a backbone of {architecture}: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3])}...), {len(mismatched)} have another shape ({', '.join(mismatched[:3])}...)"
        )


def tensors_of(module: nn.Module) -> dict[str, NDArray[Any]]:
    """Copy a module's parameters and buffers to NumPy arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}


def load_tensors(module: nn.Module, tensors: Mapping[str, NDArray[Any]]) -> None:
    module.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})


def save_model(model: MultiTaskModel, folder: Path, notes: Mapping[str, Any]) -> None:
    """Write model.safetensors and model.json: everything that prediction needs, plus `notes` on the training."""
    write_tensors(folder / "model.safetensors", tensors_of(model), {"format": "pt"})
    write_json(folder / "model.json", {**model.spec.to_json(), "notes": dict(notes)})


def load_model(folder: Path) -> MultiTaskModel:
    """Load what `save_model` wrote.

    Raises:
        ArtifactError: a file is missing or corrupt, or weights and description do not match.
    """
    document = read_json(folder / "model.json")
    try:
        spec = ModelSpec.from_json(document)
        model = MultiTaskModel(spec, _create_backbone(spec.architecture, "none", spec.preprocessing.image_size_px))
        load_tensors(model, read_tensors(folder / "model.safetensors"))
    except (KeyError, TypeError, RuntimeError, WeightsError) as error:
        raise ArtifactError(f"{folder}: model.json and model.safetensors do not match: {error}") from error
    return model
