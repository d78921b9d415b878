"""Distillation during fine-tuning: a student also learns from a trained network, on the same augmented photographs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vitrine.labels import CLASS_TASK
from vitrine.learning.model import MultiTaskModel, load_model, pick_device, tensors_of
from vitrine.learning.preprocess import resize_images
from vitrine.params import Section

FEATURE_WEIGHT = 3.0
"""Weight of the feature loss relative to the loss on the soft class labels."""


class DistillationParams(Section):
    """Weight and temperature of the teacher's loss."""

    weight: Annotated[float, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)]


class DistillationWrapper(MultiTaskModel):
    """A student and its frozen teacher. The wrapper shares the student's modules, so training it trains the student.

    Source:
        Hinton, Vinyals and Dean, Distilling the knowledge in a neural network (2015): soft labels. Romero et al.,
        FitNets (2015): features through a learned projection; here pooled features, compared by cosine similarity.
    """

    def __init__(
        self,
        student: MultiTaskModel,
        teacher: MultiTaskModel,
        params: DistillationParams,
        class_weight: float,
    ) -> None:
        """Wrap a student and a teacher that share a label space.

        Args:
            class_weight: weight of the soft class labels. The attributes have none: a teacher that knows shapes better
                than colors would make the student worse at colors.
        """
        if student.spec.label_space.labels != teacher.spec.label_space.labels:
            raise ValueError("student and teacher have different label spaces")
        super().__init__(student.spec, student.backbone)
        self.dropout, self.heads = student.dropout, student.heads
        self.params, self.class_weight = params, class_weight
        self.teacher = (teacher.eval().requires_grad_(False),)  # a tuple hides it from state_dict and train()
        width = int(teacher.backbone.num_features)  # type: ignore[arg-type]
        self.projection = nn.Linear(int(student.backbone.num_features), width)  # type: ignore[arg-type]
        self.register_buffer("feature_mean", torch.zeros(width))
        self.register_buffer("feature_std", torch.ones(width))

    def fit_feature_stats(self, photos: NDArray[np.uint8]) -> None:
        """Compute mean and std of the teacher's features. Shape: (photos, height, width, channels), square."""
        _, features = self.teacher[0].infer(photos)
        self.feature_mean = torch.from_numpy(features.mean(axis=0)).to(self.projection.weight.device)
        self.feature_std = torch.from_numpy(features.std(axis=0) + 1e-6).to(self.projection.weight.device)

    def settings(self) -> dict[str, Any]:
        """Return what determines training besides tensors and params, including the teacher and its weight."""
        teacher, digest = self.teacher[0], hashlib.sha256()
        for tensor in tensors_of(teacher).values():
            digest.update(np.ascontiguousarray(tensor).data)
        return {
            **super().settings(),
            "distillation": self.params.model_dump(),
            "class_weight": self.class_weight,
            "teacher": [teacher.settings(), digest.hexdigest()],
        }

    def forward_training(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Shape: (batch, channels, height, width), square -> per task (batch, labels), logits; scalar."""
        embeddings = self.embed(images)
        logits = self.classify(embeddings)
        with torch.no_grad():
            features = self.teacher[0].embed(self._translate(images)).float()
            targets = self.teacher[0].classify(features)[CLASS_TASK]
        features = (features - self.feature_mean) / self.feature_std
        loss = FEATURE_WEIGHT * (1 - functional.cosine_similarity(self.projection(embeddings).float(), features)).mean()
        soft_loss = soft_label_loss(logits[CLASS_TASK].float(), targets.float(), self.params.temperature)
        return logits, self.params.weight * (loss + self.class_weight * soft_loss)

    def _translate(self, images: Tensor) -> Tensor:
        """Convert the student's inputs to the teacher's image size, mean and standard deviation."""
        preprocessing = self.teacher[0].spec.preprocessing
        pixels = resize_images(self.spec.preprocessing.denormalize(images), preprocessing.image_size_px)
        return preprocessing.normalize(pixels).contiguous(memory_format=torch.channels_last)


def attach_teacher(
    student: MultiTaskModel,
    teacher: Path,
    photos: NDArray[np.uint8],
    params: DistillationParams,
    class_weight: float,
) -> MultiTaskModel:
    """Attach to a student the teacher saved by a training stage, or return the student unchanged if the weight is 0.

    Args:
        photos: the training photographs, from which mean and std of the teacher's features are computed.
        class_weight: see `DistillationWrapper`.
    Raises:
        ArtifactError: the teacher's folder does not hold a complete checkpoint.
    """
    if params.weight == 0:
        return student
    device = pick_device()
    network = load_model(teacher).to(device).to(memory_format=torch.channels_last)
    model = DistillationWrapper(student, network, params, class_weight).to(device)
    model.fit_feature_stats(photos)
    return model


def soft_label_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the mean Kullback-Leibler divergence of the softened probabilities, times the squared temperature.

    Shape:
        logits, targets: (batch, labels); returns: scalar, in nats
    Source:
        Hinton, Vinyals and Dean (2015), section 2: the square keeps the gradients' scale.
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    teacher = functional.log_softmax(targets / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
