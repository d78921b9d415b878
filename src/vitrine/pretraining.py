"""Pre-training: one data set from rendered shards, mimetic start weights, a teacher."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional

from vitrine.artifacts import ArtifactError, read_npz
from vitrine.labels import CLASS_TASK, LabelSpace
from vitrine.model import MultiTaskModel
from vitrine.training import BackboneParams, Rate, TrainingData

RENDERED_TASKS = {CLASS_TASK: "class_label", "color": "color", "material": "material", "condition": "condition"}
"""Tasks of pre-training and the shards' columns that hold their labels."""

TEACHER_LAYERS = [3, 4]
"""timm's numbers of MobileViT's maps at strides 16 and 32."""


class PretrainingParams(BackboneParams):
    """What one backbone is trained on, and how long."""

    init: Literal["default", "mimetic"]
    teacher: str
    guidance: Annotated[float, Field(ge=0)]
    train_shards: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    val_shard: Annotated[int, Field(ge=0)]
    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Rate

    @field_validator("guidance")
    @classmethod
    def _guides_with_a_teacher_only(cls, value: float, info: ValidationInfo) -> float:
        if (value > 0) != (info.data.get("teacher") != "none"):
            raise ValueError("above 0 with a teacher, 0 without one")
        return value

    @field_validator("val_shard")
    @classmethod
    def _is_not_trained_on(cls, value: int, info: ValidationInfo) -> int:
        if value in info.data.get("train_shards", ()):
            raise ValueError("a shard that is not one of train_shards")
        return value


def read_shard(path: Path) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """Decode a shard's renders.

    Returns:
        photographs, shape (renders, height, width, channels); their labels, one column a task
    Raises:
        ArtifactError: the file is missing or broken.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: not found. Render it: python pretrain/shard.py {path.stem}")
    arrays = read_npz(path)
    photos = []
    for start, end in zip([0, *arrays["ends"][:-1]], arrays["ends"], strict=True):
        with Image.open(io.BytesIO(arrays["bytes"][start:end].tobytes())) as image:
            photos.append(np.asarray(image.convert("RGB")))
    table = pd.DataFrame({task: arrays[column] for task, column in RENDERED_TASKS.items()}).astype("object")
    return np.stack(photos), table.where(table != "", None)


def pretraining_data(folder: Path, train_shards: Sequence[int], val_shard: int) -> TrainingData:
    """Put the renders of some shards into one data set.

    Args:
        folder: of the shards 0.npz, 1.npz and so on; those that are not asked for may be missing.
    Raises:
        ArtifactError: a shard is missing or broken.
    """
    shards = [read_shard(folder / f"{number}.npz") for number in (*train_shards, val_shard)]
    photos = np.concatenate([shard_photos for shard_photos, _ in shards])
    table = pd.concat([shard_table for _, shard_table in shards], ignore_index=True)
    space = LabelSpace({task: tuple(sorted(table[task].dropna().unique())) for task in RENDERED_TASKS})
    rows, num_val = np.arange(len(photos)), len(shards[-1][0])
    return TrainingData(space, photos, space.encode(table), rows[:-num_val], rows[-num_val:])


@torch.no_grad()
def mimetic_init(backbone: nn.Module, generator: torch.Generator) -> None:
    """Start attention as trained transformers look: queries meet their own keys, values are subtracted.

    Source:
        Trockman and Kolter, Mimetic initialization of self-attention layers (2023), equations 4 and 5, with its
        strengths 0.7, 0.7, 0.4, 0.4 and its sinusoidal position embeddings.
    """
    for block in backbone.blocks:  # type: ignore[union-attr]
        attention = block.attn
        width, heads = attention.proj.weight.shape[0], attention.num_heads
        size = width // heads
        query, key, value = attention.qkv.weight.view(3, width, width)
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            left, right = _factors(0.7, 0.7, width, size, generator)
            query[rows], key[rows] = left.T, right
        left, right = _factors(0.4, -0.4, width, width, generator)
        attention.proj.weight.copy_(left)
        value.copy_(right)
    positions = backbone.pos_embed
    assert isinstance(positions, Tensor)
    grid = round((positions.shape[1] - 1) ** 0.5)
    positions[:, positions.shape[1] - grid**2 :] = _sinusoids(grid, positions.shape[2])


def _factors(noise: float, identity: float, width: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Factor noise * Z + identity * I, best at this rank. Shape: (width, rank), (rank, width)."""
    target = noise * torch.randn(width, width, generator=generator) / width**0.5 + identity * torch.eye(width)
    left, scales, right = torch.linalg.svd(target)
    roots = scales[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


def _sinusoids(grid: int, width: int) -> Tensor:
    """Shape: (grid * grid, width); a half for rows, a half for columns.

    Source:
        Chen, Xie and He, An empirical study of training self-supervised vision transformers (2021), position embedding.
    """
    quarter = width // 4
    omega = 1 / 10_000 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = [rows.flatten()[:, None] * omega, columns.flatten()[:, None] * omega]
    return torch.cat([wave for angle in waves for wave in (angle.sin(), angle.cos())], dim=1)


class GuidedModel(MultiTaskModel):
    """A transformer that also learns to say, from each of its patches, what a trained convolutional model sees there.

    On few pictures a plain transformer does not find out that neighbours belong together; its teacher knows. The
    teacher, `MobileViT-XXS`, gives its maps at strides 16 and 32, each vector scaled to mean 0 and variance 1.

    Source:
        Li et al., Locality guidance for improving vision transformers on tiny datasets (2022): guidance by features
        of a light convolutional network that was trained on the same pictures. There the middle layers are guided,
        here the last one.
    """

    def __init__(self, student: MultiTaskModel, teacher: MultiTaskModel, weight: float) -> None:
        super().__init__(student.spec, student.backbone)
        self.load_state_dict(student.state_dict())
        self.teacher = teacher.backbone.requires_grad_(False)
        self.teacher_preprocessing, self.weight = teacher.spec.preprocessing, weight
        with torch.no_grad():
            targets = self._targets(torch.zeros(1, 3, 64, 64), 2)
        self.guide = nn.Linear(int(student.backbone.num_features), targets.shape[2])  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        """Return what determines training besides tensors and params: also the teacher's inputs and weight."""
        teacher = self.teacher_preprocessing.to_json()
        return {**super().settings(), "teacher_preprocessing": teacher, "guidance": self.weight}

    def train(self, mode: bool = True) -> GuidedModel:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward_training(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Shape: (batch, channels, height, width), square -> per task (batch, labels), logits; scalar."""
        tokens = self.backbone.forward_features(images)  # type: ignore[operator]
        logits = self.classify(self.backbone.forward_head(tokens))  # type: ignore[operator]
        patches = tokens[:, self.backbone.num_prefix_tokens :]
        with torch.no_grad():
            targets = self._targets(images, math.isqrt(patches.shape[1]))
        return logits, self.weight * functional.mse_loss(self.guide(patches).float(), targets)

    def _targets(self, images: Tensor, grid: int) -> Tensor:
        """Shape: (batch, channels, height, width) -> (batch, grid * grid, features)."""
        side = self.teacher_preprocessing.image_size_px
        pixels = self.spec.preprocessing.denormalise(images)
        pixels = functional.interpolate(pixels, (side, side), mode="bilinear", antialias=side < images.shape[2])
        _, maps = self.teacher.eval().forward_intermediates(  # type: ignore[operator]
            self.teacher_preprocessing.normalise(pixels), indices=TEACHER_LAYERS
        )
        sized = [functional.interpolate(each.float(), (grid, grid), mode="bilinear") for each in maps]
        rows = [each.flatten(2).transpose(1, 2) for each in sized]
        return torch.cat([functional.layer_norm(each, each.shape[2:]) for each in rows], dim=2)
