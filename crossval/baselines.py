"""Predict every fold with methods that learn no features.

Reads   data/splits/, crossval/folds.csv
Writes  crossval/predictions/majority.npz, svm.npz, linear_probe.npz, neighbors.npz
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitrine.artifacts import read_csv, read_json, read_npy
from vitrine.errors import exit_on_error
from vitrine.evaluation.baselines import (
    PROBE_SIZE_PX,
    BaselineParams,
    classical_features,
    linear_probe_probs,
    majority_probs,
    neighbor_probs,
    svm_probs,
)
from vitrine.inference.network import imagenet_features
from vitrine.labels import LabelSpace, read_photo_table
from vitrine.params import read_section
from vitrine.predictions import Predictions


def main() -> None:
    exit_on_error()
    params = read_section("baselines", BaselineParams, Path("crossval/params.yaml"))
    folder = Path("data/splits")
    table, photos = read_photo_table(folder / "photos.csv"), read_npy(folder / "photos.npy")
    label_space = LabelSpace.from_json(read_json(folder / "label_space.json"))
    folds = read_csv(Path("crossval/folds.csv"))["fold"].to_numpy()
    classical = classical_features(photos)
    frozen = imagenet_features(photos, PROBE_SIZE_PX)

    systems: dict[str, dict[str, np.ndarray]] = {"majority": {}, "svm": {}, "linear_probe": {}, "neighbors": {}}
    for task, codes in label_space.encode(table).items():
        num = label_space.num_labels(task)
        for system in systems.values():
            system[task] = np.zeros((len(folds), num), dtype=np.float32)
        for fold in np.unique(folds):
            test, train = folds == fold, folds != fold
            train_codes, features = codes[train], frozen[train]
            systems["majority"][task][test] = majority_probs(train_codes, num, int(test.sum()))
            systems["svm"][task][test] = svm_probs(classical[train], train_codes, classical[test], num, params.svm_c)
            systems["linear_probe"][task][test] = linear_probe_probs(features, train_codes, frozen[test], num)
            systems["neighbors"][task][test] = neighbor_probs(
                features, train_codes, frozen[test], num, params.neighbors
            )
    no_embeddings = np.zeros((len(folds), 0), dtype=np.float32)
    for name, probs in systems.items():
        predictions = Predictions(label_space, tuple(table["image_path"]), probs, no_embeddings)
        predictions.save(Path("crossval/predictions") / f"{name}.npz")


if __name__ == "__main__":
    main()
