"""The systems that answer: every network, and an ensemble; each with its temperatures and thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_json, write_json
from vitrine.inference.calibration import apply_temperature, fit_temperature, nll, sure_threshold
from vitrine.labels import MISSING
from vitrine.predictions import Predictions

NETWORKS = ("efficientnet", "deit", "mobilevit")
"""The models that the pipeline trains, each by a stage of its own; the first teaches the others."""

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class System:
    """How the raw predictions of networks become an answer.

    Attributes:
        members: the networks whose calibrated probabilities are averaged; a network has itself alone
        temperatures: per task, what log probabilities are divided by after averaging
        sure_thresholds: per task, the confidence from which on the answer is sure; None if the task is unreliable on
            this data, so that no answer is
    """

    members: tuple[str, ...]
    temperatures: Mapping[str, float]
    sure_thresholds: Mapping[str, float | None]


def fit_systems(
    raw: Mapping[str, Predictions],
    codes: Mapping[str, NDArray[np.int64]],
    items: NDArray[np.int64],
    val: NDArray[np.bool_],
    sure_accuracy: float,
) -> dict[str, System]:
    """Fit temperatures and thresholds on val, for every network and, if there are several, an ensemble.

    Its members are those that `best_members` finds on val.

    Args:
        raw: uncalibrated predictions of every network, for the same photographs.
        sure_accuracy: fraction of sure answers that must be shown to be right.

    Shape:
        codes[task], items, val: (photos,)
    """
    systems: dict[str, System] = {}
    for name in (*raw, ENSEMBLE) if len(raw) > 1 else raw:
        names: tuple[str, ...] = (name,)
        if name == ENSEMBLE:
            on_val = {each: system_predictions(each, systems, raw).select(val).probs for each in raw}
            names = best_members(on_val, {task: values[val] for task, values in codes.items()})
        mixed = uncalibrated(name, {**systems, name: System(names, {}, {})}, raw)
        temperatures: dict[str, float] = {}
        thresholds: dict[str, float | None] = {}
        for task, values in codes.items():
            probs = mixed.probs[task][val]
            temperatures[task] = round(fit_temperature(values[val], probs), 6)
            threshold = sure_threshold(
                values[val], apply_temperature(probs, temperatures[task]), items[val], sure_accuracy
            )
            thresholds[task] = None if threshold is None else math.floor(threshold * 1e6) / 1e6  # not above its photo
        systems[name] = System(names, temperatures, thresholds)
    return systems


def best_members(
    probs: Mapping[str, Mapping[str, NDArray[np.floating]]], codes: Mapping[str, NDArray[np.int64]]
) -> tuple[str, ...]:
    """Choose the networks whose mean probabilities are most likely: an ensemble, or the best alone.

    Compared is the negative log-likelihood after calibration, summed over the tasks; of equals the fewest win.

    Args:
        probs: calibrated, by network and task, of photographs that no network was trained on.

    Shape:
        probs[network][task]: (photos, labels); codes[task]: (photos,)
    """
    labeled = [task for task, values in codes.items() if (values != MISSING).any()]

    def loss(members: tuple[str, ...]) -> float:
        mean = ensemble_probs([probs[name] for name in members])
        calibrated = {task: apply_temperature(mean[task], fit_temperature(codes[task], mean[task])) for task in labeled}
        return sum(nll(codes[task], calibrated[task]) for task in labeled)

    return min((each for size in range(len(probs)) for each in combinations(probs, size + 1)), key=loss)


def uncalibrated(name: str, systems: Mapping[str, System], raw: Mapping[str, Predictions]) -> Predictions:
    """Return a system's predictions before its own temperatures: raw, or the mean of its calibrated members.

    An ensemble's embeddings are its members', each of length 1, side by side: their cosine is the mean cosine.
    """
    members = systems[name].members
    if members == (name,):
        return raw[name]
    parts = [system_predictions(member, systems, raw) for member in members]
    lengths = [np.maximum(np.linalg.norm(part.embeddings, axis=1, keepdims=True), 1e-12) for part in parts]
    embeddings = np.hstack([part.embeddings / length for part, length in zip(parts, lengths, strict=True)])
    probs = ensemble_probs([part.probs for part in parts])
    return Predictions(parts[0].label_space, parts[0].image_paths, probs, embeddings.astype(np.float32))


def system_predictions(name: str, systems: Mapping[str, System], raw: Mapping[str, Predictions]) -> Predictions:
    """Return a system's calibrated predictions from the raw ones of its networks."""
    mixed = uncalibrated(name, systems, raw)
    probs = {task: apply_temperature(values, systems[name].temperatures[task]) for task, values in mixed.probs.items()}
    return Predictions(mixed.label_space, mixed.image_paths, probs, mixed.embeddings)


def ensemble_probs(systems: Sequence[Mapping[str, NDArray[np.floating]]]) -> dict[str, NDArray[np.float32]]:
    """Average the probabilities of several systems, task by task. Shape: each (photos, labels)."""
    return {
        task: np.asarray(np.mean([probs[task] for probs in systems], axis=0, dtype=np.float64), dtype=np.float32)
        for task in systems[0]
    }


def save_systems(path: Path, systems: Mapping[str, System]) -> None:
    write_json(path, {name: asdict(system) for name, system in systems.items()})


def load_systems(path: Path) -> dict[str, System]:
    """Raises: ArtifactError when the file is missing or not a file of systems."""
    document = read_json(path)
    try:
        return {
            name: System(tuple(entry["members"]), entry["temperatures"], entry["sure_thresholds"])
            for name, entry in document.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a file of systems ({error!r}). Run: dvc repro evaluate") from None
