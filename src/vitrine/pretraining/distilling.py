"""A frozen teacher, a student that learns to predict its outputs, and the losses between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional

from vitrine.learning.distillation import soft_label_loss
from vitrine.learning.model import MultiTaskModel
from vitrine.learning.preprocess import Preprocessing, resize_images
from vitrine.photos import Decoding

STATISTICS_PICTURES = 2048
"""Pictures used to estimate mean and std of the teacher's features: enough for two digits."""


@dataclass(frozen=True)
class Views:
    """A network's outputs for a batch of pictures.

    Shape:
        features: (batch, features), pooled; soft_labels: (batch, 1000), ImageNet's logits
        maps: (batch, channels, height, width)
    """

    features: Tensor
    soft_labels: Tensor
    maps: Tensor


class Teacher(nn.Module):
    """A frozen EfficientNet; its maps are the last ones at stride 32, before the layer that expands their channels."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, image_size_px: int) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        config = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
        self.preprocessing = Preprocessing.from_timm(config, Decoding(image_size_px, 1.0), image_size_px)
        with torch.no_grad():
            views = self._views(torch.zeros(1, 3, image_size_px, image_size_px))
        self.num_features, self.num_labels = views.features.shape[1], views.soft_labels.shape[1]
        self.num_channels = views.maps.shape[1]
        self.register_buffer("mean", torch.zeros(self.num_features))
        self.register_buffer("std", torch.ones(self.num_features))

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Views:
        """Return the outputs for pixels in [0, 1]; features are standardized, maps are layer-normalized.

        Shape:
            pixels: (batch, channels, height, width), square
        """
        side = self.preprocessing.image_size_px
        views = self._views(self.preprocessing.normalize(resize_images(pixels, side)))
        maps = functional.layer_norm(views.maps.float().permute(0, 2, 3, 1), [self.num_channels]).permute(0, 3, 1, 2)
        return Views((views.features.float() - self.mean) / self.std, views.soft_labels.float(), maps)

    def _views(self, images: Tensor) -> Views:
        last, maps = self.network.forward_intermediates(images, indices=1)  # type: ignore[operator]
        features = self.network.forward_head(last, pre_logits=True)  # type: ignore[operator]
        return Views(features, self.network.get_classifier()(features), maps[-1])  # type: ignore[operator]

    @torch.no_grad()
    def fit_feature_stats(self, photos: NDArray[np.uint8], device: torch.device) -> None:
        """Set mean and std of the features to those over uncropped photographs.

        Shape:
            photos: (photos, height, width, channels), square
        """
        features = torch.cat(
            [
                self._views(self.preprocessing.eval_transform(photos[start : start + 64], device))
                .features.double()
                .cpu()
                for start in range(0, len(photos), 64)
            ]
        )
        self.mean.copy_(features.mean(dim=0))
        self.std.copy_(features.std(dim=0).clamp(min=1e-3))  # a feature that is always 0 must not become infinite


class Student(nn.Module):
    """A multi-task model, and layers that project its backbone's outputs to the teacher's dimensions."""

    def __init__(self, model: MultiTaskModel, teacher: Teacher) -> None:
        super().__init__()
        self.model = model
        features = int(model.backbone.num_features)  # type: ignore[arg-type]
        self.features = nn.Linear(features, teacher.num_features)
        self.soft_labels = nn.Linear(features, teacher.num_labels)
        self.maps = nn.Conv2d(features, teacher.num_channels, 1)

    def forward(self, images: Tensor) -> tuple[Views, Tensor]:
        """Return projected views, and the backbone's features. Shape: (batch, channels, height, width), square."""
        backbone = self.model.backbone
        maps = backbone.forward_features(images)  # type: ignore[operator]
        features = backbone.forward_head(maps)  # type: ignore[operator]
        if maps.ndim == 3:  # tokens of a transformer
            patches = maps[:, int(backbone.num_prefix_tokens) :]  # type: ignore[arg-type]
            grid = round(patches.shape[1] ** 0.5)
            maps = patches.transpose(1, 2).unflatten(2, (grid, grid))
        return Views(self.features(features), self.soft_labels(features), self.maps(maps)), features


def mix_pairs(pixels: Tensor, coefficients: Tensor) -> Tensor:
    """Blend every picture with the previous one. Shape: (batch, channels, height, width), (batch,).

    Source:
        Beyer et al., Knowledge distillation: a good teacher is patient and consistent (2022): mixup (Zhang et al.,
        2018) with coefficients from all of [0, 1]; teacher and student see the same blend.
    """
    weights = coefficients.view(-1, 1, 1, 1)
    return weights * pixels + (1 - weights) * pixels.roll(1, 0)


def distillation_losses(student: Views, teacher: Views, temperature: float) -> dict[str, Tensor]:
    """Return the distances between the student's and the teacher's views, each a mean over the batch.

    Features and maps: 1 - cosine similarity; soft labels: `soft_label_loss`. The teacher's maps are interpolated to the
    student's grid.
    """
    teacher_maps = functional.interpolate(teacher.maps, student.maps.shape[2:], mode="bilinear", align_corners=False)
    return {
        "features": _distance(student.features, teacher.features),
        "soft_labels": soft_label_loss(student.soft_labels.float(), teacher.soft_labels, temperature),
        "maps": _distance(student.maps, teacher_maps),
    }


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(student.float(), teacher, dim=1).mean()


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
