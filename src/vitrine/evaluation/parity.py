"""How far an exported system's predictions deviate from the pipeline's, and whether it may be served."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vitrine.inference.calibration import FLOOR, expected_calibration_error, nll, reliability
from vitrine.labels import MISSING

CALIBRATION_BINS = 10

ROUNDED: Mapping[str, float] = {
    "changed": 0.01,
    "nll_increase": 0.01,
    "cosine_loss": 0.01,
    "map_loss": 0.005,
    "refusals_changed": 0.02,
}

LIMITS: Mapping[str, Mapping[str, float]] = {
    "fp32": {"logit_difference": 1e-4, "changed": 0.0, "novelty_difference": 1e-3, "refusals_changed": 0.0},
    "bf16": ROUNDED,
    "mixed": ROUNDED,
    "int8": ROUNDED,
}
"""Maximum loss of each precision; all that round have the same limits."""

OPTIONAL = ("novelty_difference", "refusals_changed")
"""Measured only if the models refuse photographs."""

TIE = 1e-4
"""In float32, a label may change if the reference's two highest probabilities differ by at most this."""

Probs = Mapping[str, NDArray[np.floating]]


def prediction_differences(
    reference: Probs, found: Probs, codes: Mapping[str, NDArray[np.int64]], tie: float
) -> dict[str, float]:
    """Compare calibrated probabilities of the same photographs.

    Keys:
        logit_difference: largest difference of logits, centered and divided by the temperature, from log
            probabilities; probabilities below FLOOR count as FLOOR
        changed_TASK: share of photographs with a different label; changed: the largest of these
        nll_increase, ece_increase: the largest of any task; 0 if none is worse

    If any probability is not finite, all differences are maximal.

    Args:
        tie: photographs whose two highest probabilities differ by at most this do not count as changed.

    Shape:
        reference[task], found[task]: (photos, labels); codes[task]: (photos,), MISSING where unlabeled
    """
    # NaN would go unnoticed: any comparison is false.
    if not all(np.isfinite(probs[task]).all() for task in codes for probs in (reference, found)):
        shares = {f"changed_{task}": 1.0 for task in codes}
        return {
            "logit_difference": np.inf,
            **shares,
            "changed": 1.0,
            "nll_increase": np.inf,
            "ece_increase": np.inf,
        }
    largest, changed, losses, errors = 0.0, {}, [0.0], [0.0]
    for task, truth in codes.items():
        before, after = reference[task].astype(np.float64), found[task].astype(np.float64)
        largest = max(largest, float(np.abs(_logits(after) - _logits(before)).max(initial=0)))
        first, second = np.sort(before, axis=1)[:, :-3:-1].T if before.shape[1] > 1 else (np.ones(len(before)),) * 2
        other = (after.argmax(axis=1) != before.argmax(axis=1)) & (first - second > tie)
        changed[f"changed_{task}"] = float(other.mean())
        if (truth != MISSING).any():
            losses.append(nll(truth, after) - nll(truth, before))
            errors.append(_ece(truth, after) - _ece(truth, before))
    return {
        "logit_difference": largest,
        **changed,
        "changed": max(changed.values()),
        "nll_increase": max(losses),
        "ece_increase": max(errors),
    }


def cosine_loss(reference: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """Return 1 minus the lowest cosine between a photograph's two embeddings; infinity if one is not finite.

    Shape:
        both: (photos, features)
    """
    if not (np.isfinite(reference).all() and np.isfinite(found).all()):
        return float("inf")
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(found, axis=1)
    cosines = np.sum(reference.astype(np.float64) * found, axis=1) / np.maximum(lengths, 1e-12)
    return float(1 - cosines.min(initial=1))


def novelty_differences(
    reference: NDArray[np.floating], found: NDArray[np.floating], threshold: float, graph: NDArray[np.floating] | None
) -> dict[str, float]:
    """Compare novelty scores of the same photographs.

    Keys:
        refusals_changed: share of photographs that are refused by one and accepted by the other; those whose reference
            is within TIE of the threshold, relative to it, do not count; those with a score that is not finite do
        novelty_difference: largest difference of the graph's own scores, relative to the threshold; 0 without them

    Args:
        found: scores computed from a runtime's probabilities and embeddings.
        graph: the output of the exported graph.

    Shape:
        reference, found, graph: (photos,)
    """
    near = np.abs(reference - threshold) <= TIE * abs(threshold)
    broken = ~np.isfinite(reference) | ~np.isfinite(found)
    changed = ((reference > threshold) != (found > threshold)) & ~near | broken
    errors = np.zeros(1) if graph is None else np.abs(graph.astype(np.float64) - reference) / max(abs(threshold), 1e-12)
    largest = float(errors.max(initial=0)) if np.isfinite(errors).all() else float("inf")
    return {"refusals_changed": float(changed.mean()), "novelty_difference": largest}


def faults(precision: str, measured: Mapping[str, float]) -> list[str]:
    """List the measures that exceed their limits."""
    return [
        f"{name} {measured[name]:.4g}, at most {limit:g}"
        for name, limit in LIMITS[precision].items()
        if not (name in OPTIONAL and name not in measured) and not measured[name] <= limit
    ]


def _logits(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(np.maximum(probs, FLOOR))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


def _ece(codes: NDArray[np.int64], probs: NDArray[np.float64]) -> float:
    return expected_calibration_error(reliability(codes, probs, CALIBRATION_BINS))
