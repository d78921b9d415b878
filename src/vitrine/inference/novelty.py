"""Novelty scores: how unlike the training photographs a photograph is, and when it counts as none of the classes.

Scores increase as a photograph looks less like the training photographs. Two of the five need a network's logits, which
exports do not return: they are measured but not served.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import ArtifactError, read_json, read_tensors, write_json, write_tensors
from vitrine.labels import CLASS_TASK, MISSING
from vitrine.predictions import Predictions

FOLDER = "novelty"
"""Folder in the models folder that the stage `ood` writes."""

SERVED = ("neighbors", "mahalanobis", "max_probability")
"""Scores of what every runtime returns: probabilities and embeddings. Ties go to the first."""

NEED_LOGITS = ("energy", "vim")

MAX_BANK = 2000
"""Maximum number of training photographs kept for comparison, evenly spaced."""

PRINCIPAL_VARIANCE = 0.9
"""Share of the training embeddings' variance that ViM's principal space holds."""

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Signals:
    """Outputs of a system that novelty scores are computed from.

    Shape:
        probs: (photos, classes), calibrated; units: (photos, features), of length 1; logits: (photos, classes)
    """

    probs: NDArray[np.floating]
    units: NDArray[np.floating]
    logits: NDArray[np.floating] | None = None

    @classmethod
    def of(cls, found: Predictions, logits: NDArray[np.floating] | None = None) -> Signals:
        return cls(found.probs[CLASS_TASK], unit(found.embeddings), logits)

    def select(self, rows: NDArray[np.bool_]) -> Signals:
        return Signals(self.probs[rows], self.units[rows], None if self.logits is None else self.logits[rows])


def unit(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale embeddings to length 1. Shape: (photos, features)."""
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, 1e-12))


@dataclass(frozen=True)
class Detector:
    """A score, fitted on training photographs.

    Attributes:
        score: one of SERVED or NEED_LOGITS
        tensors: arrays fitted on the training photographs
        neighbors: which nearest neighbor counts, for `neighbors`
    """

    score: str
    tensors: Arrays
    neighbors: int = 0

    def scores(self, signals: Signals) -> NDArray[np.float64]:
        """Return how novel photographs are. Shape: (photos,)."""
        if self.score in NEED_LOGITS and signals.logits is None:
            raise ValueError(f"{self.score} needs logits")
        tensors = {name: array.astype(np.float64) for name, array in self.tensors.items()}
        if self.score == "max_probability":
            return 1 - signals.probs.max(axis=1).astype(np.float64)
        if self.score == "neighbors":
            return kth_distance(signals.units, tensors["bank"], self.neighbors)
        if self.score == "mahalanobis":
            return mahalanobis(signals.units, tensors)
        assert signals.logits is not None
        energy = -logsumexp(signals.logits)
        return energy if self.score == "energy" else vim(signals.units, energy, tensors)


def fit_detector(score: str, train: Signals, codes: NDArray[np.int64], neighbors: int) -> Detector:
    """Fit a score on training photographs.

    Args:
        neighbors: as in `kth_distance`; with fewer photographs, the farthest counts.

    Shape:
        codes: (photos,), classes; MISSING where unlabeled
    """
    tensors: dict[str, NDArray[np.floating]] = {}
    if score == "neighbors":
        rows = np.unique(np.linspace(0, len(train.units) - 1, min(MAX_BANK, len(train.units))).round().astype(np.int64))
        tensors = {"bank": train.units[rows]}
        neighbors = min(neighbors, len(rows))
    elif score == "mahalanobis":
        tensors = fit_mahalanobis(train.units, codes)
    elif score == "vim":
        assert train.logits is not None
        tensors = fit_vim(train.units, train.logits)
    return Detector(score, {name: array.astype(np.float32) for name, array in tensors.items()}, neighbors)


# -- scores -------------------------------------------------------------------------------------------------------


def logsumexp(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithm of the sum of exponentials; `energy` is its negative. Shape: (photos, classes) -> (photos,).

    Source:
        Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020, with temperature 1. `max_probability` is
        one minus the highest probability: Hendrycks and Gimpel, A baseline for detecting misclassified and
        out-of-distribution examples, ICLR 2017.
    """
    logits = logits.astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    return np.asarray(top[:, 0] + np.log(np.exp(logits - top).sum(axis=1)))


def kth_distance(units: NDArray[np.floating], bank: NDArray[np.floating], neighbors: int) -> NDArray[np.float64]:
    """Return one minus the cosine with the k-th nearest training photograph: half the squared distance.

    Shape:
        units: (photos, features); bank: (training photographs, features); both of length 1; returns: (photos,)
    Source:
        Sun et al., Out-of-distribution detection with deep nearest neighbors, ICML 2022.
    """
    cosines = units @ bank.T
    return 1 - np.partition(cosines, -neighbors, axis=1)[:, -neighbors]


def fit_mahalanobis(units: NDArray[np.floating], codes: NDArray[np.int64]) -> dict[str, NDArray[np.floating]]:
    """Return class means, and a shared covariance shrunk toward a sphere, as axes and their precisions.

    With more features than photographs, all variance lies on few axes; `rest` is the precision off them.

    Source:
        Lee et al., A simple unified framework for detecting out-of-distribution samples and adversarial attacks,
        NeurIPS 2018; shrinkage: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance
        matrices (2004).
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    labeled = codes != MISSING
    units, codes = units[labeled].astype(np.float64), codes[labeled]
    classes = np.unique(codes)
    means = np.stack([units[codes == code].mean(axis=0) for code in classes])
    centered = units - means[np.searchsorted(classes, codes)]
    shrinkage = min(max(float(ledoit_wolf_shrinkage(centered, assume_centered=True)), 0.01), 1.0)
    _, sizes, axes = np.linalg.svd(centered, full_matrices=False)
    variances = sizes**2 / len(units)
    kept = variances > 1e-10 * max(variances.max(initial=0), 1e-12)
    ball = shrinkage * max(float(variances.sum()) / units.shape[1], 1e-12)
    return {
        "means": means,
        "axes": axes[kept],
        "precisions": 1 / ((1 - shrinkage) * variances[kept] + ball),
        "rest": np.array([1 / ball]),
    }


def mahalanobis(units: NDArray[np.floating], tensors: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
    """Return the squared Mahalanobis distance to the nearest class mean. Shape: (photos, features) -> (photos,)."""
    offsets = units[:, None, :] - tensors["means"][None]
    along = offsets @ tensors["axes"].T
    off = np.maximum((offsets**2).sum(axis=2) - (along**2).sum(axis=2), 0)
    return np.asarray(((along**2 * tensors["precisions"]).sum(axis=2) + tensors["rest"] * off).min(axis=1))


def fit_vim(units: NDArray[np.floating], logits: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
    """Return ViM's origin, principal axes, and the factor between residuals and logits.

    The origin is the mean embedding: our heads have a hidden layer, so no bias defines one.

    Source:
        Wang et al., ViM: Out-of-distribution with virtual-logit matching, CVPR 2022.
    """
    origin = units.mean(axis=0)
    _, sizes, axes = np.linalg.svd(units - origin, full_matrices=False)
    held = np.cumsum(sizes**2) / max(float((sizes**2).sum()), 1e-12)
    axes = axes[: min(int(np.searchsorted(held, PRINCIPAL_VARIANCE)) + 1, len(axes))]
    lengths = _residuals(units - origin, axes)
    factor = float(logits.max(axis=1).mean()) / max(float(lengths.mean()), 1e-12)
    return {"origin": origin, "axes": axes, "factor": np.array([factor])}


def vim(
    units: NDArray[np.floating], energy: NDArray[np.float64], tensors: Mapping[str, NDArray[np.floating]]
) -> NDArray[np.float64]:
    """Return the scaled length of the residual off the principal axes, plus the energy. Shape: (photos, ...)."""
    return np.asarray(tensors["factor"] * _residuals(units - tensors["origin"], tensors["axes"]) + energy)


def _residuals(offsets: NDArray[np.floating], axes: NDArray[np.floating]) -> NDArray[np.float64]:
    along = offsets @ axes.T
    return np.asarray(np.sqrt(np.maximum((offsets**2).sum(axis=1) - (along**2).sum(axis=1), 0)))


# -- what is served -----------------------------------------------------------------------------------------------


def acceptance_threshold(scores: NDArray[np.floating], accepted_fraction: float) -> float:
    """Return the highest accepted score, such that the given fraction of photographs like these is accepted.

    Shape:
        scores: (photos,), of photographs that the score was not fitted on
    Source:
        the quantile of split conformal prediction: Angelopoulos and Bates, A gentle introduction to conformal
        prediction (2021). With too few photographs for the fraction, it is the highest score.
    """
    rank = math.ceil(accepted_fraction * (len(scores) + 1) - 1e-9)
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


@dataclass(frozen=True)
class Novelty:
    """A detector and threshold that tell whether a system's photographs are none of the classes.

    Attributes:
        threshold: highest accepted score
        checkpoint: `runtimes.checkpoint_digest` of the models that it was fitted for
    """

    detector: Detector
    threshold: float
    checkpoint: str

    def scores(self, found: Predictions) -> NDArray[np.float64]:
        """Return how novel photographs are. Shape: (photos,)."""
        return self.detector.scores(Signals.of(found))

    def save(self, folder: Path, system: str) -> None:
        """Write folder/SYSTEM.safetensors and, last, folder/SYSTEM.json."""
        write_tensors(folder / f"{system}.safetensors", self.detector.tensors)
        write_json(
            folder / f"{system}.json",
            {
                "score": self.detector.score,
                "neighbors": self.detector.neighbors,
                "threshold": self.threshold,
                "checkpoint": self.checkpoint,
            },
        )

    @classmethod
    def load(cls, models: Path, system: str, checkpoint: str) -> Novelty | None:
        """Load what the stage `ood` wrote for a system; None if it wrote nothing.

        Raises:
            ArtifactError: it was fitted for other models, or a file is broken.
        """
        path = models / FOLDER / f"{system}.json"
        if not path.is_file():
            return None
        document = read_json(path)
        try:
            detector = Detector(document["score"], {}, document["neighbors"])
            novelty = cls(detector, float(document["threshold"]), document["checkpoint"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: not a valid novelty file ({error!r}). Run: dvc repro ood") from None
        if novelty.checkpoint != checkpoint:
            raise ArtifactError(f"{path}: does not match the models in {models}. Run: dvc repro ood")
        tensors = read_tensors(path.with_suffix(".safetensors"))
        return replace(novelty, detector=replace(detector, tensors=tensors))
