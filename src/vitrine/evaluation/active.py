"""Simulate active learning: training labels are hidden and revealed as a strategy queries them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.decomposition import PCA

from vitrine.evaluation.baselines import linear_probe_probs
from vitrine.evaluation.resampling import jackknife_interval
from vitrine.evaluation.selection import item_means, margins, next_items, typical_items, unit
from vitrine.labels import CLASS_TASK, LabelSpace
from vitrine.params import Section

STRATEGIES = ("random", "typical", "margin", "typical, then margin")
OURS = STRATEGIES[-1]


class ActiveParams(Section):
    """How labeling is simulated."""

    seed: int
    repeats: Annotated[int, Field(ge=1)]
    folds: Annotated[int, Field(ge=2)]
    first_items: Annotated[int, Field(ge=1)]
    batch_items: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=1)]
    components: Annotated[int, Field(ge=2)]


def simulate(
    features: NDArray[np.floating],
    codes: Mapping[str, NDArray[np.int64]],
    items: NDArray[np.int64],
    label_space: LabelSpace,
    params: ActiveParams,
) -> pd.DataFrame:
    """Label batches of items in every fold, refit heads on frozen features, and score the held-out photographs.

    All strategies of a repeat start from the same random items. Principal components are fitted on the fold's pool,
    whose labels are hidden but whose photographs are available.

    Columns:
        repeat, strategy, num_items (labeled so far), item, accuracy (share of the item's photographs whose class is
        right); one row per held-out item; a repeat holds out every item once

    Shape:
        features: (photos, features); codes[task], items: (photos,), numbered from 0
    """
    num_items, rows = int(items.max()) + 1, []
    for repeat in range(params.repeats):
        rng = np.random.default_rng([params.seed, repeat])
        fold_of = rng.permutation(num_items) % params.folds
        for fold in range(params.folds):
            pool_items = np.flatnonzero(fold_of != fold)
            pool, test = np.isin(items, pool_items), np.isin(items, np.flatnonzero(fold_of == fold))
            number = np.searchsorted(pool_items, items[pool])
            size = min(params.components, pool.sum(), features.shape[1])
            reduced = PCA(int(size), random_state=params.seed).fit(features[pool])
            known, unseen = reduced.transform(features[pool]), reduced.transform(features[test])
            whole = unit(item_means(unit(known), number))
            first = rng.choice(len(pool_items), min(params.first_items, len(pool_items)), replace=False)
            order = rng.permutation(len(pool_items))
            for strategy in STRATEGIES:
                labeled = np.zeros(len(pool_items), dtype=bool)
                labeled[first] = True
                for _ in range(params.rounds):
                    rows_of, predicted = labeled[number], {}
                    fit_on = known[rows_of]
                    tasks = label_space if "margin" in strategy else [CLASS_TASK]
                    for task in tasks:
                        known_codes = codes[task][pool][rows_of]
                        num = label_space.num_labels(task)
                        predicted[task] = linear_probe_probs(fit_on, known_codes, np.concatenate([known, unseen]), num)
                    right = predicted[CLASS_TASK][len(known) :].argmax(axis=1) == codes[CLASS_TASK][test]
                    for item in np.unique(items[test]):
                        accuracy = float(right[items[test] == item].mean())
                        rows.append((repeat, strategy, int(labeled.sum()), int(item), accuracy))
                    if labeled.all():
                        break
                    unsure = margins({task: probs[: len(known)] for task, probs in predicted.items()}, number)
                    num_classes = len(np.unique(codes[CLASS_TASK][pool][rows_of]))
                    labeled[_choose(strategy, whole, unsure, labeled, order, num_classes, params, repeat)] = True
    return pd.DataFrame(rows, columns=["repeat", "strategy", "num_items", "item", "accuracy"])


def _choose(
    strategy: str,
    features: NDArray[np.floating],
    unsure: NDArray[np.floating],
    labeled: NDArray[np.bool_],
    order: NDArray[np.int64],
    num_classes: int,
    params: ActiveParams,
    repeat: int,
) -> list[int]:
    num, seed = params.batch_items, params.seed + repeat
    if strategy == "random":
        return [int(item) for item in order if not labeled[item]][:num]
    if strategy == "typical":
        return typical_items(features, labeled, num, seed)
    return next_items(features, unsure, labeled, 0 if strategy == "margin" else num_classes, num, seed)


def learning_curves(found: pd.DataFrame) -> pd.DataFrame:
    """Average over repeats and items. Columns: strategy, num_items, accuracy."""
    return found.groupby(["strategy", "num_items"], sort=False)["accuracy"].mean().reset_index()


def gains(found: pd.DataFrame) -> pd.DataFrame:
    """Compare the areas under the curves with that of random selection, item by item.

    The area is the mean accuracy over the numbers of labeled items.

    Columns:
        strategy, area, gain (over random), gain_ci_low, gain_ci_high (95 %, jackknife over items)
    """
    areas = found.groupby(["item", "strategy"])["accuracy"].mean().unstack("strategy")
    rows: list[dict[str, Any]] = []
    for strategy in STRATEGIES:
        difference = (areas[strategy] - areas["random"]).to_numpy()
        whole, num = float(difference.mean()), len(difference)
        low, high = jackknife_interval(whole, (difference.sum() - difference) / (num - 1))
        row = {"strategy": strategy, "area": float(areas[strategy].mean()), "gain": whole}
        rows.append({**row, "gain_ci_low": low, "gain_ci_high": high})
    return pd.DataFrame(rows)
