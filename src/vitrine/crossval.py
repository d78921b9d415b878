"""Judge systems by grouped cross-validation: pooled predictions, scores, comparisons, labels to look at, a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray
from pydantic import Field

from vitrine.calibration import fit_temperature, sharpen
from vitrine.labels import CLASS_TASK, MISSING, LabelSpace
from vitrine.params import Section
from vitrine.predictions import Predictions
from vitrine.relevance import IndexParams, measure_text, true_queries
from vitrine.reporting import (
    BASELINE,
    HOW_SEARCHED,
    MIN_PHOTOS,
    PROBE,
    PROBE_IN_WORDS,
    in_words,
    markdown_table,
    retrieval_table,
    soft_or_hard,
)
from vitrine.retrieval import Index
from vitrine.scoring import compare_all, number_items, score_all, with_interval
from vitrine.systems import ENSEMBLE, NETWORKS, best_members, mean_of

BASELINES = ("linear_probe", "svm", "neighbours", "majority")


class JudgeParams(Section):
    """How to judge."""

    calibration_bins: Annotated[int, Field(ge=1, le=50)]


Probs = dict[str, NDArray[np.float32]]


def pool(
    folder: Path, table: pd.DataFrame, folds: NDArray[np.int64], codes: Mapping[str, NDArray[np.int64]]
) -> dict[str, Probs]:
    """Read every system's predictions of the photographs it was not trained on, calibrate them, add the ensemble.

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
    mixed = mean_of(list(networks.values()))
    for fold in np.unique(folds):
        others = folds != fold
        elsewhere = {name: {task: values[others] for task, values in probs.items()} for name, probs in networks.items()}
        members = best_members(elsewhere, {task: values[others] for task, values in codes.items()})
        for task, values in mean_of([networks[name] for name in members]).items():
            mixed[task][~others] = values[~others]
    return mixed


def _cross_calibrated(probs: Probs, folds: NDArray[np.int64], codes: Mapping[str, NDArray[np.int64]]) -> Probs:
    calibrated = {}
    for task, values in probs.items():
        calibrated[task] = values.copy()
        for fold in np.unique(folds):
            others = folds != fold
            temperature = fit_temperature(codes[task][others], values[others])
            calibrated[task][~others] = sharpen(values[~others], temperature)
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
        confident learning (Northcutt et al., JAIR 2021), as cleanlab has it.
    """
    labels = label_space.labels[CLASS_TASK]
    counts = np.bincount(codes[codes != MISSING], minlength=len(labels))
    known = np.flatnonzero(counts >= MIN_PHOTOS)  # cleanlab wants them numbered without gaps
    rows = np.flatnonzero(np.isin(codes, known))
    found = rows[:0]
    if len(known) > 1:
        share = probs[np.ix_(rows, known)].astype(np.float64)
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-12)
        numbered = np.searchsorted(known, codes[rows])
        found = rows[find_label_issues(numbered, share, return_indices_ranked_by="self_confidence", n_jobs=1)]
    return pd.DataFrame(
        {
            "image_path": table["image_path"].to_numpy()[found],
            "instance_id": table["instance_id"].to_numpy()[found],
            "label": [labels[code] for code in codes[found]],
            "looks_like": [labels[code] for code in probs[found].argmax(axis=1)],
            "probability": probs[found, codes[found]].astype(np.float64),
            "row": found,
        }
    )


# -- report -------------------------------------------------------------------------------------------------------


def search_scores(
    systems: Mapping[str, Probs],
    table: pd.DataFrame,
    label_space: LabelSpace,
    params: IndexParams,
    synonyms: Mapping[str, Sequence[str]],
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Measure the search by words among all photographs, each as it was predicted by a system that had not seen it.

    Returns:
        as `relevance.measure_text`, for all networks and their ensemble together; the gains by system
    """
    queries = true_queries(table, label_space, params)
    measured, gains = [], {}
    for name in (*NETWORKS, ENSEMBLE):
        # Embeddings of different folds' networks cannot be compared: words alone are searched.
        nowhere = np.zeros((len(table), 1), dtype=np.float32)
        found = Predictions(label_space, tuple(table["image_path"]), systems[name], nowhere)
        index = Index.build(name, found, table["instance_id"], synonyms)
        rows, gains[name] = measure_text(name, found, index, table, queries, params.top_k)
        measured.append(rows)
    return pd.concat(measured, ignore_index=True), gains


def write_crossval_report(
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    suspects: pd.DataFrame,
    retrieval: pd.DataFrame,
    gains: Mapping[str, Mapping[str, float]],
    num_folds: int,
) -> str:
    """Return crossval.md; pictures are addressed from the folder report/."""
    one_class = scores[scores["task"] == CLASS_TASK].set_index("system")
    lines = [f"- {in_words(first, PROBE, comparisons)}" for first in (ENSEMBLE, *NETWORKS)]
    lines += [f"- {in_words(first, BASELINE, comparisons)}" for first in NETWORKS]
    lines += [f"- {in_words(ENSEMBLE, first, comparisons)}" for first in NETWORKS]
    tables = []
    for task, group in scores.groupby("task", sort=False):
        rows = [
            [
                row["system"],
                with_interval(dict(row), "accuracy"),
                with_interval(dict(row), "macro_f1"),
                f"{with_interval(dict(row), 'item_accuracy')}, {int(row['item_right'])}/{int(row['item_n'])} items",
                f"{row['nll']:.2f}",
                f"{row['ece']:.3f}",
            ]
            for _, row in group.iterrows()
        ]
        header = ["system", "accuracy", "macro F1", "by item, views fused", "NLL", "ECE"]
        tables += [f"### {str(task).capitalize()}", markdown_table(header, rows)]
    num_photos, num_items = int(one_class["n"].iloc[0]), int(one_class["item_n"].iloc[0])
    sections = [
        "# Cross-validation",
        f"Every one of {num_photos} photographs of {num_items} items was predicted by systems that had not seen its "
        f"item: {num_folds} folds of whole items. In brackets are 95 % intervals over items. The networks train with "
        "the strategies of params.yaml, for as long as crossval/params.yaml says. No epoch is picked on the fold that "
        "is judged, and temperatures are fitted on the other folds. All systems are listed; none is singled out by its "
        "score. Some learning rates and settings of the baselines were chosen by earlier cross-validations, which "
        "flatters their scores here where these used the same photographs: "
        "[which](../docs/evaluation.md#what-was-chosen-on-what).",
        "## Verdict",
        "\n".join(lines),
        "## Scores",
        *tables,
        f"`{PROBE}`: {PROBE_IN_WORDS}. `svm`: histograms of oriented gradients and of colors with an RBF support "
        "vector machine. `neighbours`: votes of the nearest photographs in the linear probe's features. `majority`: "
        "always the commonest label of train. `ensemble`: the mean of the calibrated probabilities of those networks "
        "that are best together. Its members and all temperatures are chosen on the other folds. NLL: mean negative "
        "log-likelihood, in nats. ECE: expected calibration error over bins of equal numbers.",
        "## Search",
        "\n".join(soft_or_hard(name, gain) for name, gain in gains.items()),
        retrieval_table(retrieval),
        "Searched are all photographs, each as it was predicted by networks that had not seen it. " + HOW_SEARCHED,
        "## Labels that deserve a second look",
        f"cleanlab finds {len(suspects)} photographs whose class looks wrong to the ensemble; a model this unsure is "
        "often wrong itself. Of labels with fewer than "
        f"{MIN_PHOTOS} photographs nothing is claimed. The whole list is in "
        "[suspicious_labels.csv](../plots/crossval/suspicious_labels.csv).",
        "![Photographs whose class looks wrong](../plots/crossval/suspicious_labels.jpg)",
    ]
    return "\n\n".join(sections) + "\n"
