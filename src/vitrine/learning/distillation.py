"""Distillation while fine-tuning: a student learns from a trained network, too, on the same augmented photographs."""

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
"""Weight of the features' loss beside the soft labels of the class."""


class DistillationParams(Section):
    """How much the teacher counts."""

    weight: Annotated[float, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)]


class DistillationWrapper(MultiTaskModel):
    """A student and its teacher; training changes the student alone, and shares its modules with it.

    Source:
        Hinton, Vinyals and Dean, Distilling the knowledge in a neural network (2015): soft labels. Romero et al.,
        FitNets (2015): features through a learned projection; here the pooled ones, compared by their cosine.
    """

    def __init__(
        self,
        student: MultiTaskModel,
        teacher: MultiTaskModel,
        params: DistillationParams,
        class_weight: float,
    ) -> None:
        """Take student and teacher of the same label space.

        Args:
            class_weight: of the class's soft labels. Those of the attributes are left out: a teacher that knows shapes
                better than colors would cost the student its colors.
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
        """Measure mean and spread of the teacher's features. Shape: (photos, height, width, channels), square."""
        _, features = self.teacher[0].infer(photos)
        self.feature_mean = torch.from_numpy(features.mean(axis=0)).to(self.projection.weight.device)
        self.feature_std = torch.from_numpy(features.std(axis=0) + 1e-6).to(self.projection.weight.device)

    def settings(self) -> dict[str, Any]:
        """Return what determines training besides tensors and params: also the teacher and its weight."""
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
        soft = soft_label_loss(logits[CLASS_TASK].float(), targets.float(), self.params.temperature)
        return logits, self.params.weight * (loss + self.class_weight * soft)

    def _translate(self, images: Tensor) -> Tensor:
        """Turn the student's inputs into the teacher's: another size, mean and spread."""
        theirs = self.teacher[0].spec.preprocessing
        pixels = resize_images(self.spec.preprocessing.denormalize(images), theirs.image_size_px)
        return theirs.normalize(pixels).contiguous(memory_format=torch.channels_last)


def attach_teacher(
    student: MultiTaskModel,
    teacher: Path,
    photos: NDArray[np.uint8],
    params: DistillationParams,
    class_weight: float,
) -> MultiTaskModel:
    """Give a student the teacher that a training stage saved; with a weight of 0, none.

    Args:
        photos: the training photographs; mean and spread of the teacher's features are taken from them.
        class_weight: as `DistillationWrapper` takes it.
    Raises:
        ArtifactError: the teacher's folder does not hold a whole checkpoint.
    """
    if params.weight == 0:
        return student
    device = pick_device()
    network = load_model(teacher).to(device).to(memory_format=torch.channels_last)
    model = DistillationWrapper(student, network, params, class_weight).to(device)
    model.fit_feature_stats(photos)
    return model


def soft_label_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the mean Kullback-Leibler divergence of softened probabilities, times the temperature squared.

    Shape:
        logits, targets: (batch, labels); returns: scalar, in nats
    Source:
        Hinton, Vinyals and Dean (2015), section 2: the square keeps the gradients' size.
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    teacher = functional.log_softmax(targets / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
