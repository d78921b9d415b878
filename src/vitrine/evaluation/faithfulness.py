"""Faithfulness of heat maps to a system's predictions: measures, controls, differences with intervals over items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydantic import Field

from vitrine.evaluation.resampling import item_interval
from vitrine.params import Section
from vitrine.scores import Counts

BASELINES = ("blurred", "mean")
"""Replacements for pixels: the strongly blurred photograph, or the mean color of the training photographs."""

CURVES = ("deletion", "insertion")
RANDOM, GAUSSIAN, RANDOM_NETWORK = "random", "gaussian", "random_network"
CONTROLS = (RANDOM, GAUSSIAN, RANDOM_NETWORK)
"""Maps independent of the network: smooth noise, a spot in the center, and the same method on random weights."""

EXPLAINED = "heat map"
FAITHFULNESS = "faithfulness"
"""Mean over the baselines of the area under the insertion curve minus that under the deletion curve, in [-1, 1]."""

MASK_MEASURES = ("pointing", "energy")
BOUNDS = {FAITHFULNESS: (-1.0, 1.0)}
"""Lower and upper bounds of measures that are not fractions."""

BLUR_FRACTION = 1 / 12
"""Standard deviation of the blur, as a fraction of the photograph's side; it erases labels and straps."""

NOISE_CELLS = 8
"""Cells per side of the noise that random maps are interpolated from: as coarse as the heat maps."""

PHOTOS_AT_ONCE = 8
"""Photographs whose perturbed copies are predicted together."""

Maps = NDArray[np.floating]
Key = tuple[str, str]
"""System and task."""

Predict = Callable[[NDArray[np.uint8]], Mapping[Key, NDArray[np.floating]]]


class ExplainParams(Section):
    """How heat maps are measured."""

    views_per_item: Annotated[int, Field(ge=1)]
    num_steps: Annotated[int, Field(ge=2, le=100)]


# -- controls -----------------------------------------------------------------------------------------------------


def random_maps(num: int, side: int, seed: int) -> NDArray[np.float32]:
    """Return smooth noise in [0, 1]. Shape: (num, side, side)."""
    noise = np.random.default_rng(seed).random((num, NOISE_CELLS, NOISE_CELLS)).astype(np.float32)
    grown = [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BILINEAR)) for each in noise]
    return np.stack(grown) if grown else np.zeros((0, side, side), np.float32)


def gaussian_map(side: int) -> NDArray[np.float32]:
    """Return a spot in the center, with a standard deviation of a quarter of the side. Shape: (side, side)."""
    axis = (np.arange(side) + 0.5) / side - 0.5
    return np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * 0.25**2)).astype(np.float32)


def within_view(maps: Maps, view_px: int) -> Maps:
    """Set pixels outside the center square that a network sees to 0. Shape: (..., side, side)."""
    start = (maps.shape[-1] - view_px) // 2
    seen = np.zeros(maps.shape[-2:], dtype=bool)
    seen[start : start + view_px, start : start + view_px] = True
    return np.where(seen, maps, 0)


# -- deletion and insertion ---------------------------------------------------------------------------------------


def baseline_photos(photos: NDArray[np.uint8], mean_color: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the replacement photographs in the order of BASELINES.

    Shape:
        photos: (photos, side, side, channels); mean_color: (channels,); returns: (photos, baselines, side, side,
        channels)
    """
    blur = ImageFilter.GaussianBlur(photos.shape[1] * BLUR_FRACTION)
    blurred = np.stack([np.asarray(Image.fromarray(photo).filter(blur)) for photo in photos])
    mean = np.broadcast_to(np.asarray(mean_color).round().astype(np.uint8), photos.shape)
    return np.stack([blurred, mean], axis=1)


def pixel_ranks(maps: Maps, ties: Maps) -> NDArray[np.float32]:
    """Return each pixel's rank among all pixels, hottest first, as a fraction in [0, 1).

    Args:
        ties: breaks ties between equally hot pixels; 0 for pixels that no network sees, which come last.

    Shape:
        maps, ties, returns: (photos, side, side)
    """
    ranks = np.empty(maps.shape, dtype=np.float32)
    for row, (heat, tie) in enumerate(zip(maps, ties, strict=True)):
        order = np.lexsort((-tie.ravel(), -heat.ravel()))
        places = np.empty(order.size, dtype=np.float32)
        places[order] = np.arange(order.size, dtype=np.float32) / order.size
        ranks[row] = places.reshape(heat.shape)
    return ranks


@dataclass(frozen=True)
class Ends:
    """Probabilities at the ends of every curve: of the whole photographs, and of their baselines.

    Shape:
        whole: (photos, labels); replaced: (photos, baselines, labels)
    """

    whole: NDArray[np.floating]
    replaced: NDArray[np.floating]


def predict_ends(photos: NDArray[np.uint8], baselines: NDArray[np.uint8], predict: Predict) -> dict[Key, Ends]:
    """Predict both ends of the curves. Shape: as `perturbation_curves`."""
    whole, replaced = predict(photos), predict(baselines.reshape(-1, *photos.shape[1:]))
    shape = baselines.shape[:2]
    return {key: Ends(probs, replaced[key].reshape(*shape, -1)) for key, probs in whole.items()}


def perturbation_curves(
    photos: NDArray[np.uint8],
    baselines: NDArray[np.uint8],
    ranks: NDArray[np.float32],
    num_steps: int,
    predict: Predict,
) -> dict[Key, NDArray[np.floating]]:
    """Predict photographs as more and more of the hottest pixels are deleted, or inserted into the baselines.

    Args:
        num_steps: number of parts that the pixels are divided into; `predict_ends` computes the ends.
        predict: maps photographs to probabilities, by any key.

    Shape:
        photos: (photos, side, side, channels); baselines: as `baseline_photos`; ranks: (photos, side, side)
        returns: by key (photos, baselines, curves, num_steps - 1, labels)
    Source:
        Petsiuk et al., RISE (2018), https://arxiv.org/abs/1806.07421, section 4.2.
    """
    fractions = np.linspace(0, 1, num_steps + 1)[1:-1]
    curves: dict[Key, list[NDArray[np.floating]]] = {}
    for start in range(0, len(photos), PHOTOS_AT_ONCE):
        chunk = slice(start, start + PHOTOS_AT_ONCE)
        whole, replaced = photos[chunk, None], baselines[chunk]
        images = np.empty((*replaced.shape[:2], len(CURVES), len(fractions), *photos.shape[1:]), dtype=np.uint8)
        for step, fraction in enumerate(fractions):
            hot = (ranks[chunk] < fraction)[:, None, :, :, None]
            images[:, :, 0, step] = np.where(hot, replaced, whole)
            images[:, :, 1, step] = np.where(hot, whole, replaced)
        for key, probs in predict(images.reshape(-1, *photos.shape[1:])).items():
            curves.setdefault(key, []).append(probs.reshape(*images.shape[:4], -1))
    return {key: np.concatenate(parts) for key, parts in curves.items()}


def curve_measures(inner: NDArray[np.floating], ends: Ends, codes: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return the areas under the curves of the explained label, and their faithfulness, for every photograph.

    Keys:
        deletion_blurred, insertion_blurred, deletion_mean, insertion_mean, faithfulness

    Shape:
        inner: as `perturbation_curves` returns it; codes: (photos,); each value: (photos,)
    """
    rows = np.arange(len(codes))
    curves = np.empty((*inner.shape[:3], inner.shape[3] + 2))
    curves[..., 1:-1] = inner[rows, ..., codes]
    curves[:, :, 0, 0] = curves[:, :, 1, -1] = ends.whole[rows, codes][:, None]
    curves[:, :, 0, -1] = curves[:, :, 1, 0] = ends.replaced[rows, :, codes]
    areas = np.trapezoid(curves, dx=1 / (curves.shape[-1] - 1), axis=-1)
    measures = {
        f"{curve}_{baseline}": areas[:, column, row]
        for column, baseline in enumerate(BASELINES)
        for row, curve in enumerate(CURVES)
    }
    return measures | {FAITHFULNESS: (areas[:, :, 1] - areas[:, :, 0]).mean(axis=1)}


# -- masks --------------------------------------------------------------------------------------------------------


def mask_measures(maps: Maps, masks: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Return whether the hottest pixel is on the object, and the share of heat on it, for every photograph.

    Keys:
        pointing (Zhang et al. 2018, https://arxiv.org/abs/1608.00507; without a tolerance), energy (Wang et al. 2020,
        https://arxiv.org/abs/1910.01279)

    Shape:
        maps, masks: (photos, side, side); each value: (photos,)
    """
    flat, inside = maps.reshape(len(maps), -1).astype(np.float64), masks.reshape(len(masks), -1)
    hottest = flat.argmax(axis=1)
    heat = np.maximum(flat.sum(axis=1), 1e-12)
    return {
        "pointing": inside[np.arange(len(flat)), hottest].astype(np.float64),
        "energy": (flat * inside).sum(axis=1) / heat,
    }


# -- summaries ----------------------------------------------------------------------------------------------------


def _ratio(sums: Counts) -> NDArray[np.float64]:
    return np.asarray(sums[..., 0] / sums[..., 1], dtype=np.float64)


def mean_with_interval(
    values: NDArray[np.float64], items: NDArray[np.int64], bounds: tuple[float, float]
) -> tuple[float, float, float]:
    """Return a mean over photographs and the ends of its 95 % interval over items. Shape: values, items (photos,)."""
    items = np.unique(items, return_inverse=True)[1]
    counts = np.stack([np.bincount(items, weights=values), np.bincount(items)], axis=1)
    low, high = item_interval(_ratio, counts, bounds)
    return float(values.mean()), low, high


def measure_rows(
    measured: Mapping[str, Mapping[str, NDArray[np.float64]]], items: Mapping[str, NDArray[np.int64]]
) -> pd.DataFrame:
    """Summarize the measures of one system and task, and compare the heat maps with every control.

    Columns:
        measure, method (`heat map`, or a control), n, value and difference (the heat map minus this control, paired by
        photograph; empty for the heat map itself), each with `_ci_low` and `_ci_high`, 95 % intervals over items

    Args:
        measured: by method and measure, a value for every photograph.
        items: by measure, the item of every photograph.
    """
    rows = []
    for measure, explained in measured[EXPLAINED].items():
        low, high = BOUNDS.get(measure, (0.0, 1.0))
        width = high - low
        for method, values in measured.items():
            mean = mean_with_interval(values[measure], items[measure], (low, high))
            row = {"measure": measure, "method": method, "n": len(explained)}
            row |= dict(zip(("value", "value_ci_low", "value_ci_high"), mean, strict=True))
            if method != EXPLAINED:
                gain = mean_with_interval(explained - values[measure], items[measure], (-width, width))
                names = ("difference", "difference_ci_low", "difference_ci_high")
                row |= dict(zip(names, gain, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def deciding_differences(rows: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Return, by control, how much more faithful the heat maps are on val, which decides whether they are shown."""
    table = rows[(rows["measure"] == FAITHFULNESS) & (rows["method"] != EXPLAINED)]
    names = ["difference", "difference_ci_low", "difference_ci_high"]
    return {
        str(row["method"]): (round(row[names[0]], 4), round(row[names[1]], 4), round(row[names[2]], 4))
        for row in table.to_dict("records")
    }
