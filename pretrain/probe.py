"""Probe the snapshots of a run on labeled photographs: python pretrain/probe.py NAME [FOLDER].

Reads   .resume/distill_NAME/*.safetensors, FOLDER (default data/splits): the photographs of train and val; those of
        test are never used
Writes  pretrain/curves/NAME.csv: accuracy of logistic regression on frozen features, by cross-validation over items,
        with 95 % intervals, against the pictures seen; the first row is the weights that the run started from
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from vitrine.artifacts import read_json, read_npy, write_csv
from vitrine.errors import exit_on_error
from vitrine.evaluation.scoring import accuracy_with_interval, number_items
from vitrine.labels import MISSING, LabelSpace, read_photo_table
from vitrine.learning.model import create_model
from vitrine.params import read_section
from vitrine.photos import Decoding
from vitrine.pretraining.run import StudentParams

FOLDS = 5
TASKS = ("class", "color")


def probe(features: NDArray[np.float32], codes: NDArray[np.int64], items: NDArray[np.int64]) -> dict[str, float | int]:
    """Return the accuracy on photographs of items that the probe never saw: n, accuracy and interval bounds.

    Shape:
        features: (photos, features); codes, items: (photos,)
    """
    labeled = codes != MISSING
    features, codes, items = features[labeled], codes[labeled], items[labeled]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    folds = list(GroupKFold(FOLDS).split(features, groups=items))
    return accuracy_with_interval(cross_val_predict(model, features, codes, cv=folds) == codes, items)


def main(name: str, folder: Path) -> None:
    exit_on_error()
    params = read_section(f"distill_{name}", StudentParams, Path("pretrain/params.yaml"))
    table = read_photo_table(folder / "photos.csv")
    known = (table["split"] != "test").to_numpy()
    photos, table = read_npy(folder / "photos.npy")[known], table[known]
    decoding = Decoding(**read_json(folder / "decoding.json"))
    space = LabelSpace.from_json(read_json(folder / "label_space.json"))
    codes, items = space.encode(table), number_items(table["instance_id"])
    rows = []
    snapshots = sorted((Path(".resume") / f"distill_{name}").glob("0*.safetensors"))
    for seen, start in tqdm(
        [(0, params.initial_weights), *((int(path.stem), str(path)) for path in snapshots)], disable=None
    ):
        model = create_model(params.architecture, start, LabelSpace({}), decoding, params.image_size_px, 0.0, 0.0)
        _, features = model.infer(photos)
        scores = {task: probe(features, codes[task], items) for task in TASKS}
        named = {f"{task}_{key}": value for task, found in scores.items() for key, value in found.items()}
        rows.append({"pictures": seen, **named})
    write_csv(Path("pretrain/curves") / f"{name}.csv", pd.DataFrame(rows), digits=4)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "data/splits"))
