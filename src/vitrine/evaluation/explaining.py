"""Evaluate the heat maps of all systems against controls, on photographs that no network was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vitrine.evaluation.faithfulness import (
    CONTROLS,
    EXPLAINED,
    FAITHFULNESS,
    GAUSSIAN,
    MASK_MEASURES,
    RANDOM,
    RANDOM_NETWORK,
    Key,
    Predict,
    baseline_photos,
    curve_measures,
    gaussian_map,
    mask_measures,
    mean_with_interval,
    measure_rows,
    perturbation_curves,
    pixel_ranks,
    predict_ends,
    random_maps,
    within_view,
)
from vitrine.evaluation.scoring import SEED
from vitrine.predictions import Predictions

Values = Mapping[str, NDArray[np.float64]]


class Explains(Protocol):
    """Protocol of a system's explainer; `vitrine.inference.explanations.Explainer` describes the methods."""

    @property
    def view_px(self) -> int: ...

    def predict(self, photos: NDArray[np.uint8]) -> Predictions: ...

    def predict_task(self, photos: NDArray[np.uint8], task: str) -> NDArray[np.float32]: ...

    def heatmaps(
        self, photos: NDArray[np.uint8], codes: Mapping[str, NDArray[np.int64]]
    ) -> Mapping[str, NDArray[np.float32]]: ...


@dataclass(frozen=True)
class Judged:
    """Heat maps of some photographs, what they explain, and how faithful they are.

    Attributes:
        codes: the predicted labels, which the heat maps explain
        rows: the columns of `measure_rows`, plus model and task
        means: by system and measure, the mean over tasks with its 95 % interval over items

    Shape:
        codes[key]: (photos,); probs[key]: (photos,) of those labels; maps[key]: (photos, side, side)
    """

    codes: Mapping[Key, NDArray[np.int64]]
    probs: Mapping[Key, NDArray[np.floating]]
    maps: Mapping[Key, NDArray[np.float32]]
    rows: pd.DataFrame
    means: Mapping[str, Mapping[str, tuple[float, float, float]]]


def first_views(table: pd.DataFrame, split: str, views_per_item: int) -> NDArray[np.int64]:
    """Return the rows of the first views of every item in a split. Args: table: contents of photos.csv."""
    of_split = table[table["split"] == split]
    return np.asarray(of_split.index[of_split.groupby("instance_id").cumcount() < views_per_item], dtype=np.int64)


def judge_heatmaps(
    photos: NDArray[np.uint8],
    items: NDArray[np.int64],
    masks: Sequence[NDArray[np.bool_] | None],
    mean_color: NDArray[np.floating],
    explainers: Mapping[str, Explains],
    untrained: Mapping[str, Explains],
    predict: Predict,
    num_steps: int,
) -> Judged:
    """Measure the heat maps of every system and task, and those of the controls.

    A network with random weights uses the heat map of its first task for all tasks: untrained heads are equivalent.

    Args:
        masks: object masks; None where unknown.
        untrained: the same systems with random weights.
        predict: maps photographs to the probabilities of all systems and tasks.

    Shape:
        photos: (photos, side, side, channels); items: (photos,); masks: (side, side) each; mean_color: (channels,)
    """
    baselines, side = baseline_photos(photos, mean_color), photos.shape[1]
    view_px = min(each.view_px for each in explainers.values())
    noise = within_view(random_maps(len(photos), side, SEED), view_px)
    controls = {RANDOM: noise, GAUSSIAN: within_view(np.repeat(gaussian_map(side)[None], len(photos), axis=0), view_px)}
    ends = predict_ends(photos, baselines, predict)
    codes = {key: each.whole.argmax(axis=1) for key, each in ends.items()}
    shared = {
        name: perturbation_curves(photos, baselines, pixel_ranks(maps, noise), num_steps, predict)
        for name, maps in controls.items()
    }
    masked = np.array([mask is not None for mask in masks], dtype=bool)
    inside = np.stack([mask for mask in masks if mask is not None]) if masked.any() else None

    tables, maps, means = [], {}, {}
    for name, explainer in explainers.items():
        tasks = [task for system, task in ends if system == name]

        heatmaps = explainer.heatmaps(photos, {task: codes[name, task] for task in tasks})
        untrained_maps = untrained[name].heatmaps(photos, {tasks[0]: codes[name, tasks[0]]})[tasks[0]]
        untrained_curves = perturbation_curves(
            photos, baselines, pixel_ranks(untrained_maps, noise), num_steps, _all_tasks(name, explainer)
        )
        by_task: dict[str, dict[str, Values]] = {}
        for task in tasks:
            key = name, task
            maps[key] = heatmaps[task]
            ranks, predict_task = pixel_ranks(heatmaps[task], noise), _one_task(name, explainer, task)
            explained = perturbation_curves(photos, baselines, ranks, num_steps, predict_task)[key]
            inner = {EXPLAINED: explained, **{each: shared[each][key] for each in controls}}
            inner[RANDOM_NETWORK] = untrained_curves[key]
            heats = {EXPLAINED: heatmaps[task], **controls, RANDOM_NETWORK: untrained_maps}
            by_task[task] = {
                method: curve_measures(inner[method], ends[key], codes[key])
                | (mask_measures(heats[method][masked], inside) if inside is not None else {})
                for method in (EXPLAINED, *CONTROLS)
            }
            of_measure = {each: items[masked] if each in MASK_MEASURES else items for each in by_task[task][EXPLAINED]}
            table = measure_rows(by_task[task], of_measure)
            table.insert(0, "task", task)
            table.insert(0, "model", name)
            tables.append(table)
        means[name] = _means([by_task[task][EXPLAINED] for task in tasks], items, masked)
    probs = {key: ends[key].whole[np.arange(len(photos)), values] for key, values in codes.items()}
    return Judged(codes, probs, maps, pd.concat(tables, ignore_index=True), means)


def _all_tasks(name: str, explainer: Explains) -> Predict:
    return lambda images: {(name, task): probs for task, probs in explainer.predict(images).probs.items()}


def _one_task(name: str, explainer: Explains, task: str) -> Predict:
    return lambda images: {(name, task): explainer.predict_task(images, task)}


def _means(
    by_task: Sequence[Values], items: NDArray[np.int64], masked: NDArray[np.bool_]
) -> dict[str, tuple[float, float, float]]:
    """Average measures over tasks, with intervals over items."""
    means = {}
    for measure in by_task[0]:
        values = np.mean([each[measure] for each in by_task], axis=0)
        known = items[masked] if measure in MASK_MEASURES else items
        means[measure] = mean_with_interval(values, known, (-1.0, 1.0) if measure == FAITHFULNESS else (0.0, 1.0))
    return means


def split_rows(rows: pd.DataFrame, split: str, shown: Mapping[Key, bool]) -> pd.DataFrame:
    """Return the rows to write for one split; for val, only those that decide which heat maps are shown.

    Columns:
        as `Judged.rows`, split, and shown: whether heat maps of this model are shown for this task
    """
    kept = rows[rows["measure"] == FAITHFULNESS] if split == "val" else rows
    table = kept.assign(shown=[int(shown[key]) for key in zip(kept["model"], kept["task"], strict=True)])
    table.insert(0, "split", split)
    return table


def headline_metrics(
    judged: Judged, shown: Mapping[Key, bool]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the metrics that `dvc metrics show` compares: each system's means over tasks, and their intervals.

    Also `num_shown`: the number of (system, task) pairs whose heat maps are shown.
    """
    measures = [name for name in (FAITHFULNESS, *MASK_MEASURES) if name in next(iter(judged.means.values()))]
    picked = {f"{system}_{name}": values[name] for system, values in judged.means.items() for name in measures}
    metrics: dict[str, float] = {name: value for name, (value, _, _) in picked.items()}
    return metrics | {"num_shown": sum(shown.values())}, {name: (low, high) for name, (_, low, high) in picked.items()}
