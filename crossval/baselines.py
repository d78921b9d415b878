"""Predict every fold with methods that learn no features: the commonest label, a support vector machine, neighbours.

Reads   data/splits/, crossval/folds.csv
Writes  crossval/predictions/majority.npz, svm.npz, neighbours.npz
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitrine.artifacts import ArtifactError, read_csv, read_json, read_npy
from vitrine.baselines import BaselineParams, classical_features, majority_probs, neighbour_probs, svm_probs
from vitrine.labels import LabelSpace, read_photos
from vitrine.model import WeightsError
from vitrine.params import ParamsError, exit_on, read_section
from vitrine.predictions import Predictions
from vitrine.preprocess import Decoding
from vitrine.strategies import DeitParams, Strategy, create
from vitrine.training import TrainingParams


def main() -> None:
    exit_on(ParamsError, ArtifactError, WeightsError)
    params = read_section("baselines", BaselineParams, Path("crossval/params.yaml"))
    training = read_section("training", TrainingParams)
    start = Strategy(read_section("train_deit", DeitParams), phases=[], balanced=False)  # nothing is trained
    folder = Path("data/splits")
    table, photos = read_photos(folder / "photos.csv"), read_npy(folder / "photos.npy")
    label_space = LabelSpace.from_json(read_json(folder / "label_space.json"))
    folds = read_csv(Path("crossval/folds.csv"))["fold"].to_numpy()
    classical = classical_features(photos)
    decoding = Decoding(**read_json(folder / "decoding.json"))
    _, frozen = create(start, label_space, decoding, training).infer(photos)  # as training would start from it

    found: dict[str, dict[str, np.ndarray]] = {"majority": {}, "svm": {}, "neighbours": {}}
    for task, codes in label_space.encode(table).items():
        num = label_space.num_labels(task)
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
        Predictions(label_space, tuple(table["image_path"]), probs, embeddings).save(
            Path("crossval/predictions") / f"{name}.npz"
        )


if __name__ == "__main__":
    main()
