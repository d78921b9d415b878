"""Evaluate systems by grouped cross-validation: pooled predictions, scores, comparisons, suspicious labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray
from pydantic import Field

from vitrine.evaluation.scoring import MIN_PHOTOS, compare_all, number_items, score_all
from vitrine.inference.calibration import apply_temperature, fit_temperature
from vitrine.inference.systems import ENSEMBLE, NETWORKS, best_members, ensemble_probs
from vitrine.labels import CLASS_TASK, MISSING, LabelSpace
from vitrine.params import Section
from vitrine.predictions import Predictions

BASELINES = ("linear_probe", "svm", "neighbors", "majority")


class JudgeParams(Section):
    """Evaluation settings."""

    calibration_bins: Annotated[int, Field(ge=1, le=50)]


Probs = dict[str, NDArray[np.float32]]


def out_of_fold_probs(
    folder: Path, table: pd.DataFrame, folds: NDArray[np.int64], codes: Mapping[str, NDArray[np.int64]]
) -> dict[str, Probs]:
    """Read every system's out-of-fold predictions, calibrate them, and add the ensemble.

    The temperature of a fold and the members of its ensemble are chosen on the other folds.

    Returns:
        {system: {task: probabilities}}, shape (photos, labels) in the table's order
    Raises:
        ArtifactError: predictions are missing.
    """
    systems: dict[str, Probs] = {}
    place = {path: row for row, path in enumerate(table["image_path"])}
    for name in NETWORKS:
        parts = [Predictions.load(folder / f"{name}_{fold}.npz") for fold in np.unique(folds)]
        rows = np.array([place[path] for part in parts for path in part.image_paths])
        order = np.argsort(rows)
        systems[name] = {task: np.concatenate([part.probs[task] for part in parts])[order] for task in codes}
    systems = {name: _cross_calibrated(probs, folds, codes) for name, probs in systems.items()}
    systems[ENSEMBLE] = _cross_calibrated(_ensemble(systems, folds, codes), folds, codes)
    for name in BASELINES:
        probs = dict(Predictions.load(folder / f"{name}.npz").probs)
        systems[name] = probs if name == "majority" else _cross_calibrated(probs, folds, codes)
    return systems


def _ensemble(networks: Mapping[str, Probs], folds: NDArray[np.int64], codes: Mapping[str, NDArray[np.int64]]) -> Probs:
    merged = {}
    for task, values in codes.items():
        by_network = {name: probs[task] for name, probs in networks.items()}
        merged[task] = np.empty_like(next(iter(by_network.values())))
        for fold in np.unique(folds):
            others = folds != fold
            members = best_members({name: each[others] for name, each in by_network.items()}, values[others])
            merged[task][~others] = ensemble_probs([by_network[name][~others] for name in members])
    return merged


def _cross_calibrated(probs: Probs, folds: NDArray[np.int64], codes: Mapping[str, NDArray[np.int64]]) -> Probs:
    calibrated = {}
    for task, values in probs.items():
        calibrated[task] = values.copy()
        for fold in np.unique(folds):
            others = folds != fold
            temperature = fit_temperature(codes[task][others], values[others])
            calibrated[task][~others] = apply_temperature(values[~others], temperature)
    return calibrated


def judge(
    systems: Mapping[str, Probs], codes: Mapping[str, NDArray[np.int64]], instance_ids: Sequence[str], num_bins: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score all systems on all tasks, and compare the class accuracies of each pair.

    Returns:
        scores: system, task and the keys of `scoring.score`; comparisons: first, second, task and the keys of
        `scoring.compare`
    """
    items = number_items(instance_ids)
    return score_all(systems, codes, items, num_bins), compare_all(systems, codes, items)


def suspicious_labels(
    table: pd.DataFrame, label_space: LabelSpace, codes: NDArray[np.int64], probs: NDArray[np.float32]
) -> pd.DataFrame:
    """Rank photographs whose class looks wrong to systems that never saw them, the most suspicious first.

    Columns:
        image_path, instance_id, label, looks_like, probability (of the label), row (position in the table)
    Source:
        confident learning (Northcutt et al., JAIR 2021), as implemented in cleanlab.
    """
    labels = label_space.labels[CLASS_TASK]
    counts = np.bincount(codes[codes != MISSING], minlength=len(labels))
    known = np.flatnonzero(counts >= MIN_PHOTOS)  # cleanlab expects codes without gaps
    rows = np.flatnonzero(np.isin(codes, known))
    suspicious = rows[:0]
    if len(known) > 1:
        share = probs[np.ix_(rows, known)].astype(np.float64)
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-12)
        numbered = np.searchsorted(known, codes[rows])
        suspicious = rows[find_label_issues(numbered, share, return_indices_ranked_by="self_confidence", n_jobs=1)]
    return pd.DataFrame(
        {
            "image_path": table["image_path"].to_numpy()[suspicious],
            "instance_id": table["instance_id"].to_numpy()[suspicious],
            "label": [labels[code] for code in codes[suspicious]],
            "looks_like": [labels[code] for code in probs[suspicious].argmax(axis=1)],
            "probability": probs[suspicious, codes[suspicious]].astype(np.float64),
            "row": suspicious,
        }
    )
