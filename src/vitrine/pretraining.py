"""Pre-training: one data set from rendered shards and formula pictures, mimetic start weights, a linear probe."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from vitrine.artifacts import ArtifactError, read_npz
from vitrine.formulas import formula_picture
from vitrine.labels import CLASS_TASK, MISSING, LabelSpace
from vitrine.training import BackboneParams, Rate, TrainingData, TrainingParams

RENDERED_TASKS = {CLASS_TASK: "class_label", "color": "color", "material": "material", "condition": "condition"}
"""Tasks of pre-training and the shards' columns that hold their labels."""

FORMULA_TASK = "formula"
VARIANTS_PER_FORMULA = 20


class ArmParams(BackboneParams):
    """What one backbone is trained on, and how long."""

    init: Literal["default", "mimetic"]
    num_renders: Annotated[int, Field(ge=0)]
    num_formulas: Annotated[int, Field(ge=0)]
    augmented: bool
    epochs: Annotated[int, Field(ge=0)]
    learning_rate: Rate


def unaugmented(params: TrainingParams) -> TrainingParams:
    """Return the params with every random change of a photograph turned off but mirroring."""
    off = dict.fromkeys(("rotation_degrees", "translation_fraction", "brightness", "contrast", "saturation"), 0.0)
    return params.model_copy(update={**off, "crop_area_min": 1.0, "erase_probability": 0.0})


def read_renders(folder: Path, num: int) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """Decode the first `num` renders of the folder's shards 0, 1, 2...

    Returns:
        photographs, shape (num, height, width, channels); their labels, one column a task
    Raises:
        ArtifactError: there are fewer.
    """
    photos: list[NDArray[np.uint8]] = []
    tables = []
    shard = 0
    while len(photos) < num:
        arrays = read_npz(folder / f"{shard}.npz")
        starts = np.concatenate([[0], arrays["ends"][:-1]])
        taken = min(num - len(photos), len(starts))
        for start, end in zip(starts[:taken], arrays["ends"][:taken], strict=True):
            with Image.open(io.BytesIO(arrays["bytes"][start:end].tobytes())) as image:
                photos.append(np.asarray(image.convert("RGB")))
        tables.append(pd.DataFrame({task: arrays[column][:taken] for task, column in RENDERED_TASKS.items()}))
        shard += 1
    table = pd.concat(tables, ignore_index=True).astype("object")
    return np.stack(photos), table.where(table != "", None)


def pretraining_data(folder: Path, arm: ArmParams, num_val: int) -> TrainingData:
    """Put an arm's renders and formula pictures into one data set; the last `num_val` renders are val.

    A picture of a formula has no label for the renders' tasks, a render none for the formulas' task.

    Raises:
        ArtifactError: there are too few shards.
    """
    if arm.num_renders + arm.num_formulas == 0:
        raise ArtifactError("an arm that trains needs renders or formulas")
    photos, table = read_renders(folder, arm.num_renders + num_val)
    labels = {task: tuple(sorted(table[task].dropna().unique())) for task in RENDERED_TASKS}
    train = np.arange(arm.num_renders)
    val = np.arange(arm.num_renders, len(photos))
    if arm.num_formulas:
        labels[FORMULA_TASK] = tuple(f"{number:04d}" for number in range(arm.num_formulas))
        pictures, numbers = _formulas(arm.num_formulas, photos.shape[1])
        table = pd.concat([table, pd.DataFrame({FORMULA_TASK: [labels[FORMULA_TASK][n] for n in numbers]})])
        train = np.concatenate([train, np.arange(len(photos), len(photos) + len(pictures))])
        photos = np.concatenate([photos, pictures])
        table = table.astype("object").where(table.notna(), None)
    space = LabelSpace(labels)
    return TrainingData(space, photos, space.encode(table), train, val)


def _formulas(num: int, side_px: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    numbers = np.repeat(np.arange(num), VARIANTS_PER_FORMULA)
    pictures = np.empty((len(numbers), side_px, side_px, 3), dtype=np.uint8)
    for row, number in enumerate(tqdm(numbers, desc="formulas", disable=None)):
        pictures[row] = formula_picture(int(number), row % VARIANTS_PER_FORMULA, side_px)
    return pictures, numbers


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


def linear_probe(
    features: NDArray[np.float32], codes: NDArray[np.int64], folds: NDArray[np.int64], inverse_penalty: float
) -> NDArray[np.bool_]:
    """Say for each photograph whether a logistic regression on the other folds' frozen features is right about it.

    Shape:
        features: (photos, features); codes: (photos,), MISSING where unlabelled, such photographs count as wrong;
        folds: (photos,); returns: (photos,)
    """
    correct = np.zeros(len(codes), dtype=bool)
    labelled = codes != MISSING
    for fold in np.unique(folds):
        train, held_out = labelled & (folds != fold), labelled & (folds == fold)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=2000))
        probe.fit(features[train], codes[train])
        correct[held_out] = probe.predict(features[held_out]) == codes[held_out]
    return correct
