"""Make probabilities honest, and say how honest they are: temperatures, proper scores, reliability, coverage."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from vitrine.labels import MISSING

TEMPERATURE_RANGE = (0.25, 8.0)
FLOOR = 1e-7


def sharpen(probs: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Divide log probabilities by a temperature and normalise; above 1 is less sure. Shape: (photos, labels)."""
    logs = np.log(np.maximum(probs.astype(np.float64), FLOOR)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def nll(codes: NDArray[np.int64], probs: NDArray[np.floating]) -> float:
    """Mean negative log probability of the true labels, in nats; 0 is perfect. Shape: (photos,), (photos, labels)."""
    labelled = codes != MISSING
    if not labelled.any():
        return float("nan")
    true = probs[labelled, codes[labelled]].astype(np.float64)
    return float(-np.log(np.maximum(true, FLOOR)).mean())


def brier(codes: NDArray[np.int64], probs: NDArray[np.floating]) -> float:
    """Mean squared distance between probabilities and truth, over all labels; 0 to 2. Shape: as `nll`.

    Source:
        Brier, Verification of forecasts expressed in terms of probability (1950).
    """
    labelled = codes != MISSING
    if not labelled.any():
        return float("nan")
    truth = np.eye(probs.shape[1])[codes[labelled]]
    return float(((probs[labelled] - truth) ** 2).sum(axis=1).mean())


def fit_temperature(codes: NDArray[np.int64], probs: NDArray[np.floating]) -> float:
    """Return the temperature with the least negative log-likelihood; 1 without labelled photographs.

    Shape:
        codes: (photos,); probs: (photos, labels)
    Source:
        Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    if not (codes != MISSING).any():
        return 1.0
    low, high = np.log(TEMPERATURE_RANGE)
    found = minimize_scalar(
        lambda log: nll(codes, sharpen(probs, float(np.exp(log)))), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))


def reliability(codes: NDArray[np.int64], probs: NDArray[np.floating], num_bins: int) -> pd.DataFrame:
    """Compare confidence and accuracy in bins of equal numbers of photographs.

    Columns:
        confidence, accuracy (means of the bin), n
    Source:
        equal-mass bins, which are less biased: Roelofs et al., Mitigating bias in calibration error estimation (2022).
    """
    labelled = codes != MISSING
    confidence = probs[labelled].max(axis=1).astype(np.float64)
    right = probs[labelled].argmax(axis=1) == codes[labelled]
    order = np.argsort(confidence, kind="stable")
    bins = [rows for rows in np.array_split(order, min(num_bins, max(len(order), 1))) if len(rows)]
    return pd.DataFrame(
        [{"confidence": confidence[rows].mean(), "accuracy": right[rows].mean(), "n": len(rows)} for rows in bins],
        columns=["confidence", "accuracy", "n"],
    )


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """Mean distance between confidence and accuracy over the photographs of `reliability`'s bins."""
    if not len(bins):
        return float("nan")
    return float(np.average((bins["confidence"] - bins["accuracy"]).abs(), weights=bins["n"]))


def coverage_curve(codes: NDArray[np.int64], probs: NDArray[np.floating]) -> pd.DataFrame:
    """Accuracy when only the surest photographs are answered; equal confidences are answered together.

    Columns:
        coverage (share answered), accuracy (of those), threshold (least confidence answered)
    """
    labelled = codes != MISSING
    confidence = probs[labelled].max(axis=1).astype(np.float64)
    right = probs[labelled].argmax(axis=1) == codes[labelled]
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    table = pd.DataFrame(
        {
            "coverage": answered / max(len(order), 1),
            "accuracy": np.cumsum(right[order]) / answered,
            "threshold": confidence[order],
        }
    )
    return table.groupby("threshold", sort=False).tail(1).reset_index(drop=True)


def sure_threshold(curve: pd.DataFrame, wanted_accuracy: float) -> float:
    """Return the least confidence from which on answers are right as often as wanted; 1 if they never are."""
    enough = curve[curve["accuracy"] >= wanted_accuracy]
    return float(enough["threshold"].iloc[-1]) if len(enough) else 1.0
