"""Calibrate probabilities and measure their calibration: temperatures, proper scores, reliability, coverage."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vitrine.labels import MISSING

TEMPERATURE_RANGE = (0.25, 8.0)
FLOOR = 1e-7

SURE_RISK = 0.05
"""Accepted probability that sure answers are right less often than wanted."""


def apply_temperature(probs: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Divide log probabilities by a temperature and normalize; above 1 lowers confidence. Shape: (photos, labels)."""
    logs = np.log(np.maximum(probs.astype(np.float64), FLOOR)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def nll(codes: NDArray[np.int64], probs: NDArray[np.floating]) -> float:
    """Return the mean negative log-likelihood, in nats; 0 is perfect. Shape: (photos,), (photos, labels)."""
    labeled = codes != MISSING
    if not labeled.any():
        return float("nan")
    true = probs[labeled, codes[labeled]].astype(np.float64)
    return float(-np.log(np.maximum(true, FLOOR)).mean())


def brier(codes: NDArray[np.int64], probs: NDArray[np.floating]) -> float:
    """Return the mean squared distance between probabilities and truth, over all labels; 0 to 2. Shape: as `nll`.

    Source:
        Brier, Verification of forecasts expressed in terms of probability (1950).
    """
    labeled = codes != MISSING
    if not labeled.any():
        return float("nan")
    truth = np.eye(probs.shape[1])[codes[labeled]]
    return float(((probs[labeled] - truth) ** 2).sum(axis=1).mean())


def fit_temperature(codes: NDArray[np.int64], probs: NDArray[np.floating]) -> float:
    """Return the temperature with the least negative log-likelihood; 1 without labeled photographs.

    Shape:
        codes: (photos,); probs: (photos, labels)
    Source:
        Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    from scipy.optimize import minimize_scalar  # takes a quarter of a second to import; prediction does not need it

    if not (codes != MISSING).any():
        return 1.0
    low, high = np.log(TEMPERATURE_RANGE)
    result = minimize_scalar(
        lambda log: nll(codes, apply_temperature(probs, float(np.exp(log)))), bounds=(low, high), method="bounded"
    )
    return float(np.exp(result.x))


def reliability(codes: NDArray[np.int64], probs: NDArray[np.floating], num_bins: int) -> pd.DataFrame:
    """Compare confidence and accuracy in bins of equal numbers of photographs.

    Columns:
        confidence, accuracy (means of the bin), n
    Source:
        equal-mass bins, which are less biased: Roelofs et al., Mitigating bias in calibration error estimation (2022).
    """
    labeled = codes != MISSING
    confidence = probs[labeled].max(axis=1).astype(np.float64)
    right = probs[labeled].argmax(axis=1) == codes[labeled]
    order = np.argsort(confidence, kind="stable")
    bins = [rows for rows in np.array_split(order, min(num_bins, max(len(order), 1))) if len(rows)]
    return pd.DataFrame(
        [{"confidence": confidence[rows].mean(), "accuracy": right[rows].mean(), "n": len(rows)} for rows in bins],
        columns=["confidence", "accuracy", "n"],
    )


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """Return the mean distance between confidence and accuracy over the photographs of `reliability`'s bins."""
    if not len(bins):
        return float("nan")
    return float(np.average((bins["confidence"] - bins["accuracy"]).abs(), weights=bins["n"]))


def coverage_curve(codes: NDArray[np.int64], probs: NDArray[np.floating]) -> pd.DataFrame:
    """Return the accuracy when only the most confident photographs are answered; ties are answered together.

    Columns:
        coverage (share answered), accuracy (of those), threshold (lowest confidence answered)
    """
    labeled = codes != MISSING
    confidence = probs[labeled].max(axis=1).astype(np.float64)
    right = probs[labeled].argmax(axis=1) == codes[labeled]
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


def confidence_threshold(
    codes: NDArray[np.int64], probs: NDArray[np.floating], items: NDArray[np.int64], wanted_accuracy: float
) -> float | None:
    """Return the lowest threshold whose answers are shown to reach the wanted accuracy; None if there is none.

    Shown means that the one-sided lower bound of the accuracy (Clopper and Pearson, items as trials) reaches it. An
    item counts as the fraction of its answered photographs that are right, so that similar views count once. The most
    confident tenth of the photographs is tested first, then two tenths and so on, until one fails: in a fixed sequence,
    every test may use the full risk. Tenths with too few items to pass even if all are right are skipped.

    Shape:
        codes, items: (photos,); probs: (photos, labels)
    Source:
        fixed-sequence testing: Angelopoulos et al., Learn then Test (2021). Fractions of items make the binomial bound
        wider than necessary, not narrower: tests/inference/test_calibration.py simulates it.
    """
    labeled = codes != MISSING
    confidence = probs[labeled].max(axis=1)
    right = (probs[labeled].argmax(axis=1) == codes[labeled]).astype(np.float64)
    items, threshold = items[labeled], None
    surest = np.sort(confidence)[::-1]
    for tenths in range(1, 11) if len(surest) else ():
        level = surest[(tenths * len(surest) + 9) // 10 - 1]
        answered = confidence >= level
        numbered = np.unique(items[answered], return_inverse=True)[1]
        of_items = np.bincount(numbered, weights=right[answered]) / np.bincount(numbered)
        if binomial_tail(len(of_items), len(of_items), wanted_accuracy) > SURE_RISK:
            continue
        if binomial_tail(of_items.sum(), len(of_items), wanted_accuracy) > SURE_RISK:
            break
        threshold = float(level)
    return threshold


def binomial_tail(right: float, num: int, accuracy: float) -> float:
    """Return the probability that at least `right` of `num` items are right; fractions interpolate between integers.

    Source:
        the binomial distribution's tail as an incomplete beta function; Clopper and Pearson (1934).
    """
    from scipy.special import betainc

    return float(betainc(right, num - right + 1, accuracy)) if right > 0 else 1.0


def is_confident(probs: NDArray[np.floating], threshold: float | None) -> NDArray[np.bool_]:
    """Return which answers are sure; none without a threshold. Shape: (photos, labels) -> (photos,)."""
    if threshold is None:
        return np.zeros(len(probs), dtype=np.bool_)
    return np.asarray(probs.max(axis=1) >= threshold)
