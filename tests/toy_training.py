"""A task small enough to train on in a test: photographs of three plain colors, dark and light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitrine.labels import MISSING, LabelSpace
from vitrine.learning.model import tensors_of
from vitrine.learning.training import Fitted, NetworkParams, Phase, Strategy, TrainingData, TrainingParams

SPACE = LabelSpace({"class": ("blue", "green", "red"), "shade": ("dark", "light")})
PHASES = [Phase("heads", 1, 0.0, 1e-3), Phase("full", 3, 2e-3, 2e-3)]


NETWORK = NetworkParams(architecture="test_vit", weights="none", image_size_px=32, precision="fp32")


def strategy(phases: Sequence[Phase] = PHASES, balanced: bool = True) -> Strategy:
    return Strategy(NETWORK, phases, balanced)


def params(**changes: Any) -> TrainingParams:
    values: dict[str, Any] = {
        "seed": 1, "processes": 1, "batch_size": 8, "class_loss_weight": 1.0, "attribute_loss_weight": 0.5,
        "feature_dropout": 0.1, "head_dropout": 0.2, "weight_decay": 0.05, "warmup_epochs": 1,
        "gradient_clip_norm": 1.0, "checkpoint": "best", "ema_decay": 0.9,
        "crop_area_min": 0.8, "flip_probability": 0.5, "rotation_degrees": 10.0, "translation_fraction": 0.1,
        "brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue_fraction": 0.0,
        "erase_probability": 0.1, "erase_area_min": 0.02, "erase_area_max": 0.2,
    }  # fmt: skip
    return TrainingParams(**{**values, **changes})


def data(num_train: int = 27, num_val: int = 9) -> TrainingData:
    """Make noisy photographs of plain colors, dark and light; the third has no shade."""
    total = num_train + num_val
    rng = np.random.default_rng(0)
    classes = np.arange(total) % 3
    shades = (np.arange(total) // 3) % 2
    photos = rng.integers(0, 40, (total, 24, 24, 3))
    photos[np.arange(total), :, :, 2 - classes] += np.where(shades == 1, 200, 110)[:, None, None]
    shades = shades.copy()
    shades[2] = MISSING
    return TrainingData(
        SPACE,
        photos.astype(np.uint8),
        {"class": classes.astype(np.int64), "shade": shades.astype(np.int64)},
        np.arange(num_train),
        np.arange(num_train, total),
    )


def same(first: Fitted, second: Fitted) -> bool:
    left, right = tensors_of(first.model), tensors_of(second.model)
    return (
        first.epoch == second.epoch
        and first.history.equals(second.history)
        and all(np.array_equal(left[name], right[name]) for name in left)
    )
