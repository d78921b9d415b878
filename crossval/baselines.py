"""Predict every fold with methods that learn no features: the commonest label, a support vector machine, neighbours.

Reads   data/splits/, crossval/folds.csv
Writes  crossval/predictions/majority.npz, svm.npz, neighbours.npz
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitrine.artifacts import ArtifactError, read_csv
from vitrine.baselines import BaselineParams, classical_features, majority_probs, neighbour_probs, svm_probs
from vitrine.labels import read_photos
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.predictions import Predictions
from vitrine.strategies import DeitParams, create
from vitrine.training import TrainingData, TrainingParams


def main() -> None:
    exit_on(ParamsError, ArtifactError, WeightsError)
    params = read_section("baselines", BaselineParams, Path("crossval/params.yaml"))
    training = read_section("training", TrainingParams)
    strategy = read_section("train_deit", DeitParams).strategy()
    folder = Path("data/splits")
    data, paths = TrainingData.read(folder), tuple(read_photos(folder / "photos.csv")["image_path"])
    folds = read_csv(Path("crossval/folds.csv"))["fold"].to_numpy()
    classical = classical_features(data.photos)
    _, frozen = create(strategy, data, training).infer(data.photos)  # the backbone as training would start from it

    found: dict[str, dict[str, np.ndarray]] = {"majority": {}, "svm": {}, "neighbours": {}}
    for task, codes in data.codes.items():
        num = data.label_space.num_labels(task)
        for system in found.values():
            system[task] = np.zeros((len(folds), num), dtype=np.float32)
        for fold in np.unique(folds):
            test, train = folds == fold, folds != fold
            found["majority"][task][test] = majority_probs(codes[train], num, int(test.sum()))
            found["svm"][task][test] = svm_probs(classical[train], codes[train], classical[test], num, params.svm_c)
            found["neighbours"][task][test] = neighbour_probs(
                frozen[train], codes[train], frozen[test], num, params.neighbours
            )
    for name, probs in found.items():
        embeddings = frozen if name == "neighbours" else np.zeros((len(folds), 0), dtype=np.float32)
        Predictions(data.label_space, paths, probs, embeddings).save(Path("crossval/predictions") / f"{name}.npz")


if __name__ == "__main__":
    main()
