"""How well novelty scores tell photographs of the classes from everything else, with intervals over items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit, logit
from scipy.stats import t as student

from vitrine.evaluation.resampling import item_interval
from vitrine.evaluation.scoring import number_items
from vitrine.inference.novelty import NEED_LOGITS, SERVED, Detector, Signals, acceptance_threshold, fit_detector
from vitrine.params import Section

SCORES = (*SERVED, *NEED_LOGITS)
TPR = 0.95
"""Share of photographs of the classes that `fpr_at_95_tpr` accepts."""

ALL_KINDS = "all"
DRAWS = 2000
NO_SPREAD = 1e-9

Floats = NDArray[np.floating[Any]]


class OodParams(Section):
    """Settings of the stage `ood`.

    Attributes:
        outliers: folder with labels.csv and images of things that belong to none of the classes
        choose_kinds: kinds used to choose the score; if empty, it is the first of `novelty.SERVED`
        judge_kinds: other kinds, used to evaluate it
    """

    outliers: Annotated[str, Field(min_length=1)]
    choose_kinds: list[str]
    judge_kinds: list[str]
    accepted_fraction: Annotated[float, Field(gt=0.5, lt=1)]
    neighbors: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]


# -- measures -----------------------------------------------------------------------------------------------------


def auroc(known: Floats, novel: Floats, weights: tuple[Floats, Floats]) -> NDArray[np.float64]:
    """Return the probability that a novel picture scores higher than a known one; ties count half.

    Shape:
        known: (photos,); novel: (pictures,); weights: (draws, photos), (draws, pictures); returns: (draws,)
    """
    higher = (novel[None] > known[:, None]) + 0.5 * (novel[None] == known[:, None])
    sums = ((weights[0] @ higher) * weights[1]).sum(axis=1)
    return np.asarray(sums / (weights[0].sum(axis=1) * weights[1].sum(axis=1)))


def fpr_at_tpr(known: Floats, novel: Floats, weights: tuple[Floats, Floats]) -> NDArray[np.float64]:
    """Return the share of novel pictures accepted when 95 % of the known ones are. Shape: as `auroc`."""
    order = np.argsort(known, kind="stable")
    shares = np.cumsum(weights[0][:, order], axis=1) / weights[0].sum(axis=1, keepdims=True)
    limits = known[order][(shares < TPR - 1e-9).sum(axis=1)]
    return np.asarray(((novel[None] <= limits[:, None]) * weights[1]).sum(axis=1) / weights[1].sum(axis=1))


def with_item_interval(
    measure: Callable[[Floats, Floats, tuple[Floats, Floats]], NDArray[np.float64]],
    known: tuple[Floats, NDArray[np.int64]],
    novel: tuple[Floats, NDArray[np.int64]],
    seed: int,
    draws: int = DRAWS,
) -> tuple[float, float, float]:
    """Return a measure, and the ends of its 95 % interval over items.

    Items of both sides are resampled; the interval is Student's t on a logit scale. If no draw differs, or the measure
    is 0 or 1, it allows for kinds of items that are missing from so small a sample, as `item_interval` does.

    Args:
        known, novel: scores of photographs, and their item numbers from 0.

    Source:
        the bootstrap over clusters: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 8; without spread,
        Clopper and Pearson (1934). tests/evaluation/test_novelty.py simulates the coverage.
    """
    rng = np.random.default_rng(seed)
    nums = [int(items.max()) + 1 for _, items in (known, novel)]
    weights = [
        rng.multinomial(num, np.full(num, 1 / num), size=draws)[:, items].astype(np.float64)
        for num, (_, items) in zip(nums, (known, novel), strict=True)
    ]
    whole = np.ones((1, len(known[0]))), np.ones((1, len(novel[0])))
    value = float(measure(known[0], novel[0], whole)[0])
    drawn = measure(known[0], novel[0], (weights[0], weights[1]))
    error, num = float(drawn.std(ddof=1)), min(nums)
    if error < NO_SPREAD or min(value, 1 - value) < NO_SPREAD:
        unseen = float(1 - 0.025 ** (1 / num))
        low, high = np.quantile(drawn, [0.025, 0.975])
        return value, min(float(low), value - unseen * value), max(float(high), value + unseen * (1 - value))
    half = float(student.ppf(0.975, num - 1)) * error / (value * (1 - value)) if num > 1 else np.inf
    low, high = expit(logit(value) + np.array([-half, half]))
    return value, float(low), float(high)


def refused_share(refused: NDArray[np.bool_], items: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the share of photographs that are refused, and the ends of its interval over items. Shape: (photos,)."""
    counts = np.stack([np.bincount(items, weights=refused), np.bincount(items)], axis=1)
    ends = item_interval(lambda sums: np.asarray(sums[..., 0] / sums[..., 1], dtype=np.float64), counts)
    return float(refused.mean()), *ends


# -- judging ------------------------------------------------------------------------------------------------------


def fit_detectors(train: Signals, codes: NDArray[np.int64], neighbors: int) -> dict[str, Detector]:
    """Fit every score that the signals allow. Shape: codes: (photos,)."""
    scores = SCORES if train.logits is not None else SERVED
    return {score: fit_detector(score, train, codes, neighbors) for score in scores}


def fit_scores(
    signals: Signals, codes: NDArray[np.int64], train: NDArray[np.bool_], val: NDArray[np.bool_], params: OodParams
) -> tuple[dict[str, Detector], dict[str, float]]:
    """Fit every score on train, and its threshold on val. Shape: codes, train, val: (photos,)."""
    detectors = fit_detectors(signals.select(train), codes[train], params.neighbors)
    return detectors, fit_thresholds(detectors, signals.select(val), params.accepted_fraction)


def judge_scores(
    system: str,
    detectors: Mapping[str, Detector],
    thresholds: Mapping[str, float],
    known: tuple[Signals, NDArray[np.int64]],
    outliers: tuple[Signals, NDArray[np.str_], NDArray[np.str_]],
    seed: int,
) -> pd.DataFrame:
    """Measure scores on known photographs against each kind of outlier, and against all kinds together.

    Args:
        thresholds: the highest accepted value, by score.
        known: photographs of the classes, and their items.
        outliers: pictures of other things, their kinds, and their items.

    Columns:
        system, score, kind, n and num_items of the kind; auroc, fpr_at_95_tpr, refused (share of the kind that the
        threshold refuses) with the ends of their intervals; known_n, known_items, and known_refused with its ends: the
        share of known photographs that the threshold wrongly refuses
    """
    rows: list[dict[str, Any]] = []
    signals, kinds, outlier_items = outliers
    items = np.unique(known[1], return_inverse=True)[1].astype(np.int64)
    for score, detector in detectors.items():
        of_known, of_outliers = detector.scores(known[0]), detector.scores(signals)
        wrong = _measured("known_refused", refused_share(of_known > thresholds[score], items))
        sizes = {"known_n": len(of_known), "known_items": int(items.max()) + 1}
        for kind in [ALL_KINDS, *dict.fromkeys(kinds.tolist())]:
            row: dict[str, Any] = {"system": system, "score": score, "kind": kind}
            chosen = (kinds == kind) | (kind == ALL_KINDS)
            if chosen.any():
                numbers, novel = number_items(outlier_items[chosen].tolist()), of_outliers[chosen]
                row |= {"n": int(chosen.sum()), "num_items": int(numbers.max()) + 1}
                for name, measure in (("auroc", auroc), ("fpr_at_95_tpr", fpr_at_tpr)):
                    row |= _measured(name, with_item_interval(measure, (of_known, items), (novel, numbers), seed))
                row |= _measured("refused", refused_share(novel > thresholds[score], numbers))
            else:
                row |= {"n": 0, "num_items": 0}
            rows.append({**row, **sizes, **wrong})
    return pd.DataFrame(rows)


def _measured(name: str, estimate: tuple[float, float, float]) -> dict[str, float]:
    return {name: estimate[0], f"{name}_ci_low": estimate[1], f"{name}_ci_high": estimate[2]}


def choose_score(table: pd.DataFrame) -> str:
    """Return the score with the highest mean AUROC over systems and kinds among those that every runtime can serve.

    Args:
        table: result of `judge_scores` on val with `choose_kinds`; without any, the first of SERVED is chosen.
    """
    table = table[table["kind"] != ALL_KINDS]
    if table.empty:
        return SERVED[0]
    means = table.groupby("score")["auroc"].mean()
    return max(SERVED, key=lambda score: float(means[score]))


def fit_thresholds(detectors: Mapping[str, Detector], val: Signals, accepted_fraction: float) -> dict[str, float]:
    """Return the threshold of every score that accepts the given fraction of val."""
    return {
        score: acceptance_threshold(detector.scores(val), accepted_fraction) for score, detector in detectors.items()
    }


def by_kind(signals: Signals, kinds: NDArray[np.str_]) -> list[tuple[str, Signals]]:
    """Split signals by kind of picture. Shape: kinds: (pictures,)."""
    return [(kind, signals.select(kinds == kind)) for kind in dict.fromkeys(kinds.tolist())]


def relative_scores(detector: Detector, threshold: float, groups: Sequence[tuple[str, Signals]]) -> pd.DataFrame:
    """Return scores as multiples of the threshold. Columns: kind, score."""
    parts = [(kind, detector.scores(signals) / threshold) for kind, signals in groups]
    return pd.concat([pd.DataFrame({"kind": kind, "score": scores}) for kind, scores in parts], ignore_index=True)


def headline_novelty_metrics(
    table: pd.DataFrame, score: str
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the metrics that `dvc metrics show` compares: three per system of the served score, and their intervals.

    Keys:
        SYSTEM_auroc, SYSTEM_fpr (of outliers, at 95 % of the known photographs accepted), SYSTEM_wrongly_refused (of
        known photographs, at the served threshold)

    Args:
        table: result of `judge_scores` on test with `judge_kinds`.
    """
    named = {"auroc": "auroc", "fpr_at_95_tpr": "fpr", "known_refused": "wrongly_refused"}
    rows = table[(table["score"] == score) & (table["kind"] == ALL_KINDS)].to_dict("records")
    known = [
        (f"{row['system']}_{name}", row, key)
        for row in rows
        for key, name in named.items()
        if not pd.isna(row.get(key, np.nan))
    ]
    metrics = {name: float(row[key]) for name, row, key in known}
    return metrics, {name: (float(row[f"{key}_ci_low"]), float(row[f"{key}_ci_high"])) for name, row, key in known}
