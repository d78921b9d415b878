"""Measure how often 95 % intervals contain the truth, on simulated photographs; print a Markdown table.

Ten classes, five views per item. Every item has its own accuracy from a beta distribution: the lower the
concentration, the more items are all right or all wrong. Errors are random other classes. The truth is that of a
simulated population with the same fractions of items per class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitrine.evaluation.scoring import compare, score
from vitrine.scores import accuracy, confusion_counts, macro_f1

NUM_CLASSES, VIEWS = 10, 5
EVEN_20, EVEN_120, UNEVEN_20 = [2] * 10, [12] * 10, [5, 4, 3, 2, 1, 1, 1, 1, 1, 1]
MEANS = (0.5, 0.75, 0.9)
SCORES = ("accuracy", "macro_f1", "difference")
POPULATION = 100_000  # items


def simulate(
    items_per_class: Sequence[int], mean: float, concentration: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return true classes, predicted classes and items of photographs. Shape: each (photos,)."""
    classes = np.repeat(np.arange(NUM_CLASSES), items_per_class)
    item_accuracies = rng.beta(mean * concentration, (1 - mean) * concentration, size=len(classes))
    codes, items = np.repeat(classes, VIEWS), np.repeat(np.arange(len(classes)), VIEWS)
    wrong = rng.random(len(codes)) >= np.repeat(item_accuracies, VIEWS)
    others = rng.integers(1, NUM_CLASSES, size=len(codes))
    return codes, np.where(wrong, (codes + others) % NUM_CLASSES, codes), items


def misses(
    items_per_class: Sequence[int], mean: float, concentration: float, repeats: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Return, per score, the fractions of intervals that are entirely below and entirely above the truth.

    The difference is between two systems that agree more often than by chance: on half of the items, the second
    predicts the same as the first; on the others, it errs independently and is 0.1 less accurate.
    """
    rng = np.random.default_rng(seed)
    scale = POPULATION // sum(items_per_class)
    codes, predicted, _ = simulate([scale * num for num in items_per_class], mean, concentration, rng)
    counts = confusion_counts(codes, predicted, NUM_CLASSES)
    truth = {"accuracy": mean, "macro_f1": float(macro_f1(counts)), "difference": 0.05}
    assert abs(float(accuracy(counts)) - mean) < 0.01
    missed = {name: np.zeros(2) for name in SCORES}
    for _ in range(repeats):
        codes, first, items = simulate(items_per_class, mean, concentration, rng)
        _, second, _ = simulate(items_per_class, mean - 0.1, concentration, rng)
        second = np.where(rng.random(items[-1] + 1)[items] < 0.5, first, second)
        one, two = np.eye(NUM_CLASSES)[first], np.eye(NUM_CLASSES)[second]
        row = score(codes, one, items, 1) | compare(codes, one, two, items)
        for name in SCORES:
            missed[name] += row[f"{name}_ci_high"] < truth[name], row[f"{name}_ci_low"] > truth[name]
    return {name: counted / repeats for name, counted in missed.items()}


def main() -> None:
    cases = [
        (items, mean, concentration) for items in (EVEN_20, EVEN_120) for concentration in (1, 4) for mean in MEANS
    ]
    cases += [(UNEVEN_20, mean, 4) for mean in MEANS]
    print("| items | mean accuracy | concentration | accuracy | macro F1 | difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for items, mean, concentration in cases:
        missed = misses(items, mean, concentration, repeats=2000, seed=13)
        cells = [f"{100 * (1 - ends.sum()):.1f} ({100 * ends[0]:.1f}, {100 * ends[1]:.1f})" for ends in missed.values()]
        name = f"{sum(items)}" + (", six classes of one" if items is UNEVEN_20 else "")
        print(f"| {name} | {mean} | {concentration} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
