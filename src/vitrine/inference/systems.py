"""The systems that predict: every network and an ensemble, each with its temperatures and thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_json, write_json
from vitrine.inference.calibration import apply_temperature, confidence_threshold, fit_temperature, nll
from vitrine.labels import MISSING
from vitrine.predictions import Predictions

NETWORKS = ("efficientnet", "deit", "mobilevit")
"""The models that the pipeline trains, each in its own stage; the first is the teacher of the others."""

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class System:
    """How raw predictions of networks are combined and calibrated.

    Attributes:
        members: per task, the networks whose calibrated probabilities are averaged; for a network, only itself
        temperatures: per task, the divisor of log probabilities after averaging
        sure_thresholds: per task, the lowest confidence of a sure answer; None if the task is unreliable on this
            data, so that no answer is sure
    """

    members: Mapping[str, tuple[str, ...]]
    temperatures: Mapping[str, float]
    sure_thresholds: Mapping[str, float | None]

    @property
    def networks(self) -> tuple[str, ...]:
        """The members of all tasks, without duplicates."""
        return tuple(dict.fromkeys(name for names in self.members.values() for name in names))


def fit_systems(
    raw: Mapping[str, Predictions],
    codes: Mapping[str, NDArray[np.int64]],
    items: NDArray[np.int64],
    val: NDArray[np.bool_],
    sure_accuracy: float,
) -> dict[str, System]:
    """Fit temperatures and thresholds on val, for every network and, if there are several, an ensemble.

    `best_members` chooses the ensemble's members for each task on val.

    Args:
        raw: uncalibrated predictions of every network, for the same photographs.
        sure_accuracy: fraction of sure answers that must be shown to be right.

    Shape:
        codes[task], items, val: (photos,)
    """
    systems: dict[str, System] = {}
    for name in (*raw, ENSEMBLE) if len(raw) > 1 else raw:
        members: dict[str, tuple[str, ...]] = dict.fromkeys(codes, (name,))
        if name == ENSEMBLE:
            on_val = {each: system_predictions(each, systems, raw).select(val).probs for each in raw}
            members = {
                task: best_members({each: probs[task] for each, probs in on_val.items()}, values[val])
                for task, values in codes.items()
            }
        merged = combine_members(name, {**systems, name: System(members, {}, {})}, raw)
        temperatures: dict[str, float] = {}
        thresholds: dict[str, float | None] = {}
        for task, values in codes.items():
            probs = merged.probs[task][val]
            temperatures[task] = round(fit_temperature(values[val], probs), 6)
            threshold = confidence_threshold(
                values[val], apply_temperature(probs, temperatures[task]), items[val], sure_accuracy
            )
            # Rounded down, so that the photograph at the threshold stays sure.
            thresholds[task] = None if threshold is None else math.floor(threshold * 1e6) / 1e6
        systems[name] = System(members, temperatures, thresholds)
    return systems


def best_members(probs: Mapping[str, NDArray[np.floating]], codes: NDArray[np.int64]) -> tuple[str, ...]:
    """Choose the networks whose mean probabilities are most likely for a task: an ensemble, or the best one alone.

    The criterion is the negative log-likelihood after calibration; ties go to the fewest networks.

    Args:
        probs: calibrated, by network, of photographs that no network was trained on.

    Shape:
        probs[network]: (photos, labels); codes: (photos,)
    """

    def loss(members: tuple[str, ...]) -> float:
        mean = ensemble_probs([probs[name] for name in members])
        return nll(codes, apply_temperature(mean, fit_temperature(codes, mean)))

    choices = [each for size in range(len(probs)) for each in combinations(probs, size + 1)]
    return min(choices, key=loss) if (codes != MISSING).any() else choices[0]


def combine_members(name: str, systems: Mapping[str, System], raw: Mapping[str, Predictions]) -> Predictions:
    """Return a system's predictions before its own temperatures: raw, or the mean of its calibrated members.

    An ensemble's embeddings are its networks' unit embeddings, concatenated: their cosine is the mean cosine.
    """
    system = systems[name]
    if system.networks == (name,):
        return raw[name]
    parts = {network: system_predictions(network, systems, raw) for network in system.networks}
    units = [
        part.embeddings / np.maximum(np.linalg.norm(part.embeddings, axis=1, keepdims=True), 1e-12)
        for part in parts.values()
    ]
    first = next(iter(parts.values()))
    probs = {
        task: ensemble_probs([parts[member].probs[task] for member in members])
        for task, members in system.members.items()
    }
    return Predictions(first.label_space, first.image_paths, probs, np.hstack(units).astype(np.float32))


def system_predictions(name: str, systems: Mapping[str, System], raw: Mapping[str, Predictions]) -> Predictions:
    """Return a system's calibrated predictions from the raw ones of its networks."""
    merged = combine_members(name, systems, raw)
    probs = {task: apply_temperature(values, systems[name].temperatures[task]) for task, values in merged.probs.items()}
    return Predictions(merged.label_space, merged.image_paths, probs, merged.embeddings)


def ensemble_probs(probs: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Average the probabilities of several networks. Shape: each (photos, labels)."""
    return np.asarray(np.mean(probs, axis=0, dtype=np.float64), dtype=np.float32)


def save_systems(path: Path, systems: Mapping[str, System]) -> None:
    write_json(path, {name: asdict(system) for name, system in systems.items()})


def load_systems(path: Path) -> dict[str, System]:
    """Raises: ArtifactError when the file is missing or not a valid systems file."""
    document = read_json(path)
    try:
        return {
            name: System(
                {task: tuple(names) for task, names in entry["members"].items()},
                entry["temperatures"],
                entry["sure_thresholds"],
            )
            for name, entry in document.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a valid systems file ({error!r}). Run: dvc repro evaluate") from None
